"The pages in a browser: no kernel, no network, and everything that a reader may do."
import os, re, subprocess, sys
from pathlib import Path
import pytest
from coursekit.course.notebooks import make_nb, write_nb
ROOT = Path(__file__).resolve().parents[1]
COMMAND = 'import sys; from coursekit.course.maintain import main; sys.exit(main())'

DRAW = """#| code-fold: true
import matplotlib.pyplot as plt
from coursekit.course.widgets import explore, slider, choice
def draw(height, colour):
    _,ax = plt.subplots(figsize=(6,3))
    ax.bar([0], [height], color=colour)
    ax.set(ylim=(0,4), xticks=[], title=f'{height} high, in {colour}')
explore(draw, height=slider(1, 4, 2), colour=choice({'blue':'#0072B2', 'orange':'#D55E00'}))"""
LESSONS = {
    '01_moves': ('md:# Does it move?\n\n*Yes, by itself.* With [**momentum**](glossary.ipynb#Momentum). '
                 'The root of $x^2$ is\n\n$$\\sqrt{x^2}=|x|$$\n\n**Time:** 20 minutes.',
                 '#| hide\nsecret = 1', DRAW, 'print("→ 12 % right")'),
    '02_wide': ('md:# Does a wide page fit?', 'import pandas as pd',
                "words = '" + 'long '*60 + "'\nprint(words)",
                "pd.DataFrame([range(30)], columns=[f'column_{i}' for i in range(30)])",
                'import matplotlib.pyplot as plt\nplt.figure(figsize=(14,3))\nplt.plot([1,2]);'),
    'glossary': ('md:# Words', *(f'md:### Word {c}\n\n' + 'Much is said of it. '*40 for c in 'abc'),
                 'md:### Momentum\n\nWhat *keeps* a step going.')}

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "The folder of the pages of a small course that has run"
    folder = tmp_path_factory.mktemp('site')
    (folder/'nbs').mkdir()
    for name,cells in LESSONS.items(): write_nb(make_nb(*cells), folder/'nbs'/f'{name}.ipynb')
    env = os.environ | dict(PYTHONPATH=str(ROOT), PYTHONUTF8='1')
    r = subprocess.run([sys.executable, '-c', COMMAND, 'course'], cwd=folder, env=env, text=True,
                       encoding='utf-8', capture_output=True)
    assert r.returncode==0 and 'WARNING' not in r.stdout+r.stderr, r.stdout + r.stderr
    return folder/'_course'

class Visit:
    "A page of the site, and what went wrong or over the network while it was read"
    def __init__(self, browser, site, **kwargs):
        self.site,self.complaints = site,[]
        self.page = browser.new_context(**kwargs).new_page()
        self.page.set_default_timeout(20_000)
        self.page.on('pageerror', lambda e: self.complaints.append(str(e)))
        self.page.on('request', self.is_local)
    def is_local(self, request):
        if not request.url.startswith(('file:','data:')): self.complaints.append(request.url)
    def open(self, name):
        self.page.goto((self.site/f'{name}.html').as_uri())
        return self.page
    def end(self):
        assert self.complaints==[]
        self.page.context.close()

@pytest.fixture
def visit(browser, site):
    visits = []
    def start(**kwargs):
        visits.append(Visit(browser, site, **kwargs))
        return visits[-1]
    yield start
    for v in visits: v.end()

PIXELS = """img => {
  const c = document.createElement('canvas'), r = img.getBoundingClientRect()
  const s = getComputedStyle(img), rows = Math.round(img.naturalHeight*r.width/img.naturalWidth/r.height)
  c.width = img.naturalWidth
  c.height = img.naturalHeight/rows
  const at = s.objectFit === 'cover' ? parseFloat(s.objectPosition.split(' ')[1])/100 : 0
  const g = c.getContext('2d')
  g.drawImage(img, 0, -Math.round(at*(rows-1))*c.height)
  const px = g.getImageData(0, 0, c.width, c.height).data, seen = {blue: 0, orange: 0}
  for (let i = 0; i < px.length; i += 4) {
    if (px[i+2] > px[i]+80) seen.blue += 1
    if (px[i] > px[i+2]+80) seen.orange += 1
  }
  return seen
}"""

def test_a_slider_moves_its_figure(visit):
    page = visit().open('01_moves')
    box,img = page.locator('.ck-frames'),page.locator('.ck-frames img')
    assert img.bounding_box()['width']>=560 and img.get_attribute('alt')=='2 high, in #0072B2'
    old = img.bounding_box()
    two = img.evaluate(PIXELS)
    assert two['blue']>1000 and two['orange']==0
    handle = box.get_by_role('slider')
    handle.press('End')
    assert box.locator('output').inner_text()=='4' and img.get_attribute('alt')=='4 high, in #0072B2'
    img.evaluate('i => i.decode()')
    four = img.evaluate(PIXELS)
    assert 1.8*two['blue']<four['blue']<2.2*two['blue'] and four['orange']==0
    box.get_by_role('combobox').select_option('orange')
    there = img.evaluate(PIXELS)
    assert there['orange']>1.8*two['blue'] and there['blue']==0
    handle.press('ArrowLeft')
    assert box.locator('output').inner_text()=='3'
    assert img.bounding_box()==old

def test_search_finds_a_word(visit):
    "From a folder as from a server; only the excerpts under the hits have to be fetched from one"
    v = visit()
    page = v.open('index')
    page.keyboard.press('Control+k')
    page.keyboard.type('momentum')
    page.keyboard.press('Enter')
    page.wait_for_url('**/search.html?q=momentum*')
    page.get_by_role('link', name='Does it move?').last.wait_for()
    assert page.locator('#search-results a', has_text='Words').count()
    v.complaints = [c for c in v.complaints if c!='Failed to fetch']

def test_formulas_are_drawn(visit):
    page = visit().open('01_moves')
    formula = page.locator('math[display=block]').bounding_box()
    assert formula['height']>10 and formula['width']>30, 'drawn, with a root'
    assert page.locator('article math').count()==2 and '$' not in page.inner_text('article')

def test_a_word_shows_its_definition_and_leads_to_it(visit):
    page = visit().open('01_moves')
    word = page.get_by_role('link', name='momentum').first
    assert word.get_attribute('title')=='What keeps a step going.'
    word.click()
    page.wait_for_url('**/glossary.html#momentum')
    assert page.get_by_role('heading', name='Momentum').is_visible()
    y = page.get_by_role('heading', name='Momentum').bounding_box()['y']
    assert 0<=y<page.viewport_size['height']

def test_folded_code_opens_and_plumbing_is_left_out(visit):
    page = visit().open('01_moves')
    code = page.locator('details', has_text='def draw')
    assert code.locator('summary').inner_text().strip()=='Code of this output'
    assert not page.get_by_text('plt.subplots').is_visible()
    code.locator('summary').click()
    assert page.get_by_text('plt.subplots').first.is_visible()
    text = page.inner_text('article')
    assert '12 % right' in text and 'secret' not in text and 'code-fold' not in text

@pytest.mark.parametrize('width', [390, 900])
@pytest.mark.parametrize('name', ['index','01_moves','02_wide','glossary'])
def test_no_sideways_scrolling(visit, width, name):
    page = visit(viewport=dict(width=width, height=800)).open(name)
    assert page.evaluate('document.documentElement.scrollWidth')<=width
    shown = page.locator('article pre, article img')
    assert not shown.evaluate_all('es => es.filter(e => e.scrollWidth>e.clientWidth)')

def test_the_first_page_lists_the_lessons(visit):
    page = visit().open('index')
    row = page.locator('.ck-lessons tr', has_text='Does it move?')
    text = ' '.join(row.inner_text().split())
    assert re.fullmatch(r'Does it move\? Yes, by itself\. 20 min \d+ s 12 % right', text)
    row.get_by_role('link').click()
    page.wait_for_url('**/01_moves.html')
    assert page.locator('h1').first.inner_text().startswith('Does it move?')
    page.get_by_role('link', name='next').or_(page.locator('a.right-next')).first.click()
    page.wait_for_url('**/02_wide.html')

def test_light_and_dark(visit):
    def ground(scheme):
        page = visit(color_scheme=scheme).open('01_moves')
        plot = page.locator('.ck-frames img').evaluate('i => getComputedStyle(i).filter')
        return page.evaluate('getComputedStyle(document.body).backgroundColor'),plot
    (light,plain),(dark,inverted) = ground('light'),ground('dark')
    assert light=='rgb(255, 255, 255)' and sum(map(int, re.findall(r'\d+', dark)[:3]))<150
    assert plain=='none' and 'invert' in inverted

def test_the_notebook_can_be_downloaded(visit, site):
    link = visit().open('01_moves').locator('a[download], a[href$=".ipynb"]').first.get_attribute('href')
    assert (site/link).resolve().suffix=='.ipynb' and (site/link).exists()
