"""A lesson as a reader meets it: in JupyterLab, everything run, sliders moved, exercises answered.

`COURSEKIT_SCREENSHOTS=folder pytest tests/test_browser.py` keeps pictures of what the browser showed."""
import ast, importlib, inspect, json, os, re, shutil, signal, socket, subprocess, sys, textwrap, time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
import pytest
from coursekit.course.glossary import write_terms
from coursekit.course.notebooks import code_cells, make_nb, read_nb, source, write_nb
from coursekit.course.signposts import write_signposts
ROOT = Path(__file__).resolve().parents[1]
LESSON,EXERCISES = '02_gradients','coursekit.course.exercises.gradients'
COMMAND = 'import sys; from coursekit.course.maintain import main; sys.exit(main())'

# JupyterLab from outside

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

def lab_command(folder, port, *options):
    settings = {'IdentityProvider.token':'', 'ServerApp.port':port, 'ServerApp.port_retries':0,
                'LabApp.expose_app_in_browser':True, 'LabApp.news_url':'none',
                'LabApp.check_for_updates_class':'jupyterlab.NeverCheckForUpdate'}
    return [sys.executable, '-c', COMMAND, '--nbs', str(folder), 'lab', *options, '--no-browser',
            *(f'--{k}={v}' for k,v in settings.items())]

@pytest.fixture(scope='module')
def lessons_folder(tmp_path_factory):
    "A copy of the lessons; not every folder of lessons is called `nbs`"
    folder = tmp_path_factory.mktemp('lab')/'lessons'
    folder.mkdir()
    for p in (ROOT/'nbs').glob('*.ipynb'): shutil.copy(p, folder)
    write_signposts(folder)
    write_terms(folder)
    return folder

def home_of(tmp):
    "A new home with a new folder of data, in which the sketches drawn already can be found"
    drawn,home = Path(os.environ.get('COURSEKIT_HOME') or Path.home()/'.coursekit')/'data',tmp/'home'
    if home.exists(): return home
    (home/'coursekit').mkdir(parents=True)
    if drawn.is_dir(): (home/'coursekit'/'data').symlink_to(drawn, target_is_directory=True)
    return home

@contextmanager
def running_lab(folder, tmp, *options):
    "The address of `coursekit lab`, started as by somebody who never started Jupyter before"
    pytest.importorskip('jupyterlab', reason='jupyterlab comes with the dev extra')
    pytest.importorskip('ipywidgets')
    home,port = home_of(tmp),free_port()
    url = f'http://127.0.0.1:{port}'
    env = {k:v for k,v in os.environ.items() if not k.startswith(('JUPYTER','IPYTHON','XDG_'))}
    env |= dict(HOME=str(home), PYTHONPATH=str(ROOT), PYTHONUTF8='1', OMP_NUM_THREADS='1',
                COURSEKIT_HOME=str(home/'coursekit'))
    with open(tmp/'lab.log', 'w+') as log:
        p = subprocess.Popen(lab_command(folder, port, *options), cwd=tmp, env=env, stdout=log,
                             stderr=subprocess.STDOUT, start_new_session=hasattr(os, 'setsid'))
        try:
            until(lambda: answers(f'{url}/api') or p.poll() is not None, 120, 'JupyterLab starts')
            if p.poll() is not None: pytest.fail(f'JupyterLab ended:\n{(tmp/"lab.log").read_text()[-3000:]}')
            yield url
        finally: stop(p)

@pytest.fixture(scope='module')
def lab(lessons_folder, browser):
    "JupyterLab on the notebooks in `lessons_folder` themselves"
    with running_lab(lessons_folder, lessons_folder.parent, '--edit') as url: yield url

def stop(p):
    "The server is a child of `coursekit lab`; both end on one signal to their session, and kernels with them"
    if p.poll() is not None: return
    def send(s): os.killpg(p.pid, s) if hasattr(os, 'killpg') else p.kill()
    send(signal.SIGTERM)
    try: p.wait(20)
    except subprocess.TimeoutExpired:
        send(signal.SIGKILL)
        p.wait()

def answers(url):
    try: return urllib.request.urlopen(url, timeout=2).status==200
    except OSError: return False

def until(f, seconds, what):
    end = time.monotonic()+seconds
    while time.monotonic()<end:
        if res := f(): return res
        time.sleep(.1)
    pytest.fail(f'{what}: not within {seconds} s')

# JupyterLab from inside

OPEN = """name => {
  const w = window.jupyterapp?.shell.currentWidget
  const idle = w?.sessionContext?.session?.kernel?.status === "idle"
  return idle && w.context.path === name && w.context.isReady
}"""
WIDGET = 'const w = window.jupyterapp.shell.currentWidget, nb = w.content, cells = [...nb.model.cells];'
SOURCES = 'return cells.map(c => c.type === "code" ? c.sharedModel.getSource() : null)'
TEXTS = 'return cells.map(c => c.type === "markdown" ? c.sharedModel.getSource() : "")'
ERRORS = """return cells.flatMap((c, i) => c.type !== "code" ? [] : c.sharedModel.getOutputs()
  .filter(o => o.output_type === "error").map(o => `cell ${i}: ${o.ename}: ${o.evalue}`))"""
ALL_RUN = """
  const code = cells.filter(c => c.type === "code" && c.sharedModel.getSource().trim())
  const failed = c => c.sharedModel.getOutputs().some(o => o.output_type === "error")
  const idle = w.sessionContext.session.kernel.status === "idle"
  return idle && (code.every(c => c.executionCount !== null) || code.some(failed))"""
RUN_AGAIN = """
  const idle = w.sessionContext.session.kernel.status === "idle"
  return idle && cells[arg[0]].executionCount > arg[1]"""
PIXELS = """async i => {
  const bytes = await (await fetch(i.src)).arrayBuffer()
  return Array.from(new Uint8Array(bytes)).join()
}"""
PANEL = '.jp-NotebookPanel:not(.lm-mod-hidden)'

class Notebook:
    "An open notebook. JupyterLab's own model says what it contains, for it draws only the cells in view"
    def __init__(self, page, url, name):
        self.page,self.name = page,name
        page.goto(f'{url}/lab/tree/{name}.ipynb')
        page.wait_for_function(OPEN, arg=f'{name}.ipynb', timeout=60_000)

    def js(self, body, arg=None): return self.page.evaluate(f'async arg => {{ {WIDGET} {body} }}', arg)

    def wait(self, body, arg=None, seconds=60):
        self.page.wait_for_function(f'arg => {{ {WIDGET} {body} }}', arg=arg, timeout=1000*seconds)

    def sources(self): return self.js(SOURCES)
    def errors(self): return self.js(ERRORS)
    def is_modified(self): return self.js('return w.context.model.dirty')

    def index(self, pattern): # Number of the first code cell that matches
        return next((i for i,s in enumerate(self.sources()) if s and re.search(pattern, s, re.M)), None)

    def cell(self, i): # That cell on the page, in view
        "Scroll as a reader would until cell `i` is drawn"
        self.js('nb.activeCellIndex = arg; nb.deselectAll(); await nb.scrollToItem(arg, "center")', i)
        cell = self.page.locator(f'{PANEL} .jp-Cell[data-windowed-list-index="{i}"]')
        cell.wait_for()
        cell.scroll_into_view_if_needed()
        return cell

    def run_all(self, seconds=75):
        "By the menu; every code cell has been counted by the kernel when this returns"
        for name in ('Run', 'Run All Cells'): self.page.get_by_role('menuitem', name=name, exact=True).click()
        self.wait(ALL_RUN, seconds=seconds)

    def answer(self, i, source): # State and text of the verdict
        "Replace the text of cell `i` and press shift-enter"
        self.cell(i).locator('.cm-content').click()
        self.page.keyboard.press('ControlOrMeta+a')
        self.page.keyboard.insert_text(source)
        self.run(i)
        return self.verdict(i)

    def run(self, i):
        "Shift-enter in cell `i`"
        before = self.js('return cells[arg].executionCount', i)
        self.cell(i).locator('.cm-content').press('Shift+Enter')
        self.wait(RUN_AGAIN, [i, before or 0])

    def verdict(self, i):
        box = self.cell(i).locator('.ck-check')
        box.wait_for()
        return box.get_attribute('data-state'),box.inner_text()

    def picture(self, cell):
        return cell.locator('.widget-image, .jupyter-widgets img').first.evaluate(PIXELS)

def shot(page, name):
    if not (d := os.environ.get('COURSEKIT_SCREENSHOTS')): return
    Path(d).mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(Path(d)/f'{name}.png'))

@pytest.fixture(scope='module')
def page(browser):
    p = browser.new_page(viewport=dict(width=1280, height=900))
    p.set_default_timeout(20_000)
    yield p
    p.close()

@pytest.fixture(scope='module')
def lesson(lab, page):
    nb = Notebook(page, lab, LESSON)
    shot(page, 'opened')
    nb.run_all()
    shot(page, 'run')
    return nb

@pytest.mark.parametrize('name', ['01_pixels','glossary'])
def test_opening_a_notebook_leaves_it_unmodified(lab, browser, lessons_folder, name):
    "So closing it asks no question; and saving it writes what was there"
    page = browser.new_page()
    path = lessons_folder/f'{name}.ipynb'
    before = path.read_bytes()
    nb = Notebook(page, lab, name)
    page.wait_for_timeout(3000)                             # the kernel has told what it is
    assert not nb.is_modified()
    nb.js('await w.context.save()')
    assert path.read_bytes()==before
    page.close()

def test_a_lesson_that_ran_is_saved_clean(lab, browser, lessons_folder):
    page = browser.new_page()
    nb = Notebook(page, lab, 'glossary')
    nb.js('await w.context.save()')
    saved = read_nb(lessons_folder/'glossary.ipynb')
    assert 'language_info' not in saved['metadata']
    assert saved['metadata']['kernelspec']['display_name']=='python3'
    assert all(c['execution_count'] is None for c in code_cells(saved))
    page.close()

def test_runs_to_the_end(lesson):
    assert lesson.errors()==[]
    assert sum(s is not None for s in lesson.sources())>10

EXPLORE = re.compile(r'^explore\(', re.M)

def move_controls(nb, i):
    "Move the first slider of cell `i`, else choose from its first menu: the figure follows each time"
    cell = nb.cell(i)
    cell.locator('img').first.wait_for()
    handle,menu = cell.locator('.noUi-handle').first,cell.locator('.widget-dropdown select').first
    cell.locator('.noUi-handle, .widget-dropdown select').first.wait_for()
    if handle.count(): moves = [lambda k=k: handle.press(k) for k in ('Home','End','ArrowLeft')]
    else: moves = [lambda k=k: menu.select_option(index=k) for k in (1,0)]
    def setting(): return handle.get_attribute('aria-valuetext') if handle.count() else menu.input_value()
    seen,old = {setting()},nb.picture(cell)
    for move in moves:
        before = setting()
        move()
        if setting()==before: continue                                       # it was there already
        def follows(old=old): return nb.picture(cell)!=old
        until(follows, 30, f'the figure of cell {i} follows')
        old = nb.picture(cell)
        seen.add(setting())
    assert len(seen)>=2, f'cell {i}: {seen}'
    assert not cell.locator('pre', has_text='Error').count(), f'cell {i}: an error below the figure'

def test_sliders_move_and_the_figure_follows(lesson):
    found = [i for i,s in enumerate(lesson.sources()) if s and EXPLORE.search(s)]
    assert found, f'{LESSON} has no widget'
    for i in found:
        readout = lesson.cell(i).locator('.widget-readout').first
        text = readout.inner_text()
        move_controls(lesson, i)
        assert readout.inner_text()!=text
        shot(lesson.page, f'slider_{i}')

def exercises(): return importlib.import_module(EXERCISES).check.all

def test_value_exercise_from_not_yet_to_a_hint_to_done(lesson):
    ex = next(e for e in exercises().values() if e.is_value)
    (wrong,hint),*_ = ex.mistakes
    i = lesson.index(rf"check\(['\"]{ex.name}['\"]")
    stub = lesson.sources()[i]
    assert stub.count('...')==1 and lesson.verdict(i)[0]=='not yet'
    shot(lesson.page, 'not_yet')
    state,text = lesson.answer(i, stub.replace('...', repr(wrong)))
    shot(lesson.page, 'hint')
    assert state=='hint' and plain(hint) in text
    state,text = lesson.answer(i, stub.replace('...', repr(ex.answer)))
    shot(lesson.page, 'done')
    assert state=='done' and plain(ex.done) in text

def plain(hint): return re.sub(r'[`*]', '', hint)

def test_function_exercise_from_not_yet_to_a_hint_to_done(lesson):
    ex = next(e for e in exercises().values() if inspect.isfunction(e.answer) and e.cases)
    i = lesson.index(rf'check\({ex.name}\)')
    assert lesson.verdict(i)[0]=='not yet'
    raising = f'def {ex.name}(*args, **kwargs):\n    raise ValueError("not what I meant")\n\ncheck({ex.name})'
    state,text = lesson.answer(i, raising)
    shot(lesson.page, 'raised')
    assert state=='hint' and 'not what I meant' in text
    src = textwrap.dedent(inspect.getsource(ex.answer))
    src = src[re.search(r'^def ', src, re.M).start():]
    state,text = lesson.answer(i, f'{src}\ncheck({ex.name})')
    shot(lesson.page, 'done_function')
    assert state=='done' and plain(ex.done) in text

def test_a_folded_cell_says_what_it_holds(lab, browser, lessons_folder):
    "In place of its code, without the sign before the words"
    page = browser.new_page(viewport=dict(width=1280, height=900))
    nb = Notebook(page, lab, '03_sgd')
    folded = nb.js('return cells.flatMap((c, i) => c.sharedModel.metadata.jupyter?.source_hidden ? [i] : [])')
    assert folded
    for i in folded:
        words = re.match(r'#\| ([A-Z].*)', nb.sources()[i])[1].replace('`', '')
        shown = nb.cell(i).locator('.jp-PlaceholderText')
        until(lambda shown=shown, words=words: shown.inner_text()==words, 10, f'cell {i} says {words!r}')
    shot(page, 'folded')
    nb.cell(folded[0]).locator('.jp-InputPlaceholder .jp-Placeholder-content').click()
    nb.cell(folded[0]).locator('.cm-content').wait_for()
    page.close()

def test_a_bold_word_leads_to_the_glossary_at_the_first_click(lab, browser):
    "And says what it means where the mouse rests on it"
    page = browser.new_page(viewport=dict(width=1280, height=900))
    page.set_default_timeout(20_000)
    nb = Notebook(page, lab, LESSON)
    link = re.compile(r'\]\(glossary\.ipynb#([\w-]+) "([^"]+)"\)')
    found = [(i,m[1],m[2]) for i,s in enumerate(nb.js(TEXTS)) for m in link.finditer(s)]
    for i,term,definition in (found[0],found[-1]):
        word = nb.cell(i).locator(f'a[title="{definition}"]').first
        assert term.split('-')[0][:4].lower() in word.inner_text().lower()
        word.click()
        heading = page.locator(f'{PANEL} h3[data-jupyter-id="{term}"]')
        heading.wait_for(state='attached', timeout=30_000)
        def is_in_view(heading=heading): return (box := heading.bounding_box()) and 0<box['y']<850
        until(is_in_view, 20, f'{term} is in view')
        page.wait_for_timeout(1500)                              # and stays there
        assert is_in_view()
        shot(page, f'glossary_{term}')
        page.get_by_role('tab', name='glossary.ipynb').locator('.lm-TabBar-tabCloseIcon').click()
        nb.wait(f'return w.context.path === "{LESSON}.ipynb"')
    page.close()

WIDE = """es => es.filter(e => e.scrollWidth > e.clientWidth+1)
  .filter(e => ["auto","scroll"].includes(getComputedStyle(e).overflowX))
  .map(e => e.className + ": " + e.innerText.slice(0, 80))"""

@pytest.mark.parametrize('name', ['03_sgd','16_pets'])
def test_nothing_scrolls_sideways_in_a_narrow_window(lab, browser, name):
    page = browser.new_page(viewport=dict(width=900, height=900))
    nb = Notebook(page, lab, name)
    wide = []
    for i in range(len(nb.sources())): wide += nb.cell(i).locator('*').evaluate_all(WIDE)
    shot(page, f'narrow_{name}')
    assert not wide, '\n'.join(wide)
    page.close()

def test_the_last_cell_leads_to_the_next_lesson(lab, browser):
    page = browser.new_page(viewport=dict(width=1280, height=900))
    nb = Notebook(page, lab, '03_sgd')
    nb.cell(len(nb.sources())-1).locator('a').click()
    page.wait_for_function(OPEN, arg='04_optimizers.ipynb', timeout=60_000)
    page.close()

def test_figures_suit_the_dark_theme(lab, browser):
    "Plots are light on dark, and photos are as they were"
    page = browser.new_page(viewport=dict(width=1280, height=900))
    nb = Notebook(page, lab, '02_gradients')
    change = 'window.jupyterapp.commands.execute("apputils:change-theme", {theme: "JupyterLab Dark"})'
    page.evaluate(f'() => {change}')
    page.wait_for_selector('body[data-jp-theme-light="false"]', state='attached')
    i = next(i for i,n in enumerate(nb.js(FIGURES)) if n)
    img = nb.cell(i).locator('.jp-OutputArea-output img').first
    until(lambda: 'invert' in img.evaluate('i => getComputedStyle(i).filter'), 10, 'the plot is turned')
    shot(page, 'dark_plot')
    page.close()

# A lesson from one day to the next, as its reader meets it: in a copy of the committed lesson

TRUSTED = 'return cells.filter(c => c.type === "code").every(c => c.trusted)'
FIGURES = """return cells.map(c => c.type !== "code" ? 0 : c.sharedModel.getOutputs()
  .filter(o => o.data && (o.data["image/png"] || o.data["image/svg+xml"])).length)"""
DRAWN = """es => es.filter(e => e.tagName === "IMG" ? e.complete && e.naturalWidth > 20
                                             : e.getBoundingClientRect().width > 20).length"""

def is_committed(path):
    cmd = ['git', 'diff', '--quiet', 'HEAD', '--', str(path)]
    return (ROOT/'.git').exists() and not subprocess.run(cmd, cwd=ROOT).returncode

def figures_of(nb):
    "Scroll through the notebook: (how many figures its outputs have, how many the page shows) for each cell"
    wanted = nb.js(FIGURES)
    for i,n in enumerate(wanted):
        if not n: continue
        output = nb.cell(i).locator('.jp-OutputArea-output')
        shown = output.locator('img, svg')
        until(lambda shown=shown, n=n: shown.evaluate_all(DRAWN)>=n, 20, f'cell {i} shows {n} figures')
        assert not output.get_by_text(re.compile('Error displaying widget|model not found', re.I)).count()
    return sum(wanted)

@pytest.mark.skipif(not is_committed(ROOT/'nbs'/f'{LESSON}.ipynb'), reason=f'{LESSON} is not as committed')
def test_a_lesson_from_one_day_to_the_next(browser, tmp_path):
    """Opened, run, an exercise solved, saved, closed, and opened again with another kernel: each time it is
    unmodified, trusted, and shows every figure. What was solved is remembered, and `nbs` is as it was"""
    copies,before = tmp_path/'mine',(ROOT/'nbs'/f'{LESSON}.ipynb').read_bytes()
    def opened(url):
        page = browser.new_page(viewport=dict(width=1280, height=900))
        page.set_default_timeout(20_000)
        nb = Notebook(page, url, LESSON)
        page.wait_for_timeout(3000)
        assert not nb.is_modified()
        assert nb.js(TRUSTED)
        return nb,figures_of(nb)
    with running_lab(ROOT/'nbs', tmp_path, '--copies', str(copies)) as url:
        nb,n_first = opened(url)
        shot(nb.page, 'first_day')
        nb.run_all(seconds=120)
        assert nb.errors()==[]
        ex = next(e for e in exercises().values() if e.is_value)
        i = nb.index(rf"check\(['\"]{ex.name}['\"]")
        answered = nb.sources()[i].replace('...', repr(ex.answer))
        state,text = nb.answer(i, answered)
        assert state=='done' and f'1 of {len(exercises())} in this lesson' in text
        nb.js('await w.context.save()')
        assert not nb.is_modified()
        nb.page.close()
    with running_lab(ROOT/'nbs', tmp_path, '--copies', str(copies)) as url:
        nb,n_second = opened(url)
        shot(nb.page, 'second_day')
        assert n_second==n_first>5
        assert nb.sources()[i]==answered
        words = nb.page.locator('.jp-OutputArea-output img').evaluate_all('es => es.map(e => e.alt)')
        assert any(o.startswith('Figure: ') for o in words), words
        nb.page.goto(f'{url}/lab/tree/lessons.md?reset')
        listed = nb.page.locator('.jp-MarkdownViewer tr', has_text=LESSON)
        listed.wait_for()
        assert '●○' in listed.inner_text() and listed.locator('a').count()
        shot(nb.page, 'list')
        nb.page.close()
    assert (ROOT/'nbs'/f'{LESSON}.ipynb').read_bytes()==before
    note = json.loads((tmp_path/'home'/'coursekit'/'progress.json').read_text())
    assert [*note]==[LESSON] and [*note[LESSON]]==[ex.name]

# The cleaner of labels, in a notebook of a few tiny pictures

CLEANER = """
import tempfile
from coursekit.vision.all import *
root,tints = Path(tempfile.mkdtemp()),{'blue <b>':2, 'green':1, 'red':0}
rng = np.random.default_rng(0)
for kind,channel in tints.items():
    (root/kind).mkdir()
    for i in range(8):
        px = rng.integers(0, 90, (24,32,3), dtype='uint8')
        px[...,channel] += 150
        Image.fromarray(px).save(root/kind/f'{i} & more.png')
block = DataBlock((ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label,
                  splitter=IndexSplitter(range(0, 24, 3)), item_tfms=Resize(16))
dls = block.dataloaders(root, bs=8)
set_seed(0)
learn = Learner(dls, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)))
with learn.no_bar(): cleaner = ImageClassifierCleaner(learn, opts=['yellow'], max_n=4)
cleaner
""","""
def told(i): return '/'.join(cleaner.fns[i].parts[-2:])
print('changed', sorted((told(i),c) for i,c in cleaner.change()))
print('deleted', [told(i) for i in cleaner.delete()])
"""

class CleanerCell:
    "What a reader sees and does in the cell of the cleaner"
    def __init__(self, cell): self.cell = cell
    def menus(self): return self.cell.locator('.widget-dropdown select')
    def choose(self, k, label): self.menus().nth(k).select_option(label=label)
    def view(self, kind, split): # Choose class and split, and wait for the pictures
        self.choose(0, kind)
        self.choose(1, split)
        first = 8*['blue <b>','green','red'].index(kind)        # every third file is for validation
        wanted = {f'{kind}/{i} & more.png' for i in range(8) if ((first+i)%3==0)==(split=='Valid')}
        def is_shown(): # the browser brings text, menus and pictures up to date in any order
            n = re.search(re.escape(f'{kind}, {split}: 1–')+r'(\d+)', self.cell.inner_text())
            return n and {*self.names()}<=wanted and len(self.names())==len(self.marks())==int(n[1])
        until(is_shown, 60, f'{kind} in {split} is shown')
        return self.names()
    def names(self): # Class and file of each picture in view
        titles = self.cell.locator('.widget-html div[title]').evaluate_all('es => es.map(e => e.title)')
        return ['/'.join(o.split('\n')[0].split('/')[-2:]) for o in titles]
    def marks(self): # What the menus under the pictures say
        chosen = self.menus().evaluate_all('es => es.map(e => e.selectedOptions[0]?.text ?? "")')
        return [o.replace('\xa0', ' ') for o in chosen[2:]]

def test_labels_are_cleaned_by_hand(lab, browser, lessons_folder):
    "Marks made in the browser are there after another class and split, and Python reads them"
    nb = make_nb(*(o.strip() for o in CLEANER))
    nb['metadata'] = dict(kernelspec=dict(name='python3', display_name='python3', language='python'))
    write_nb(nb, lessons_folder/'cleaner.ipynb')
    page = browser.new_page(viewport=dict(width=1280, height=1100))
    page.set_default_timeout(20_000)
    nb = Notebook(page, lab, 'cleaner')
    nb.run_all(seconds=180)
    assert nb.errors()==[]
    cleaner = CleanerCell(nb.cell(0))
    until(lambda: len(cleaner.marks())==4, 60, 'four pictures are shown')
    first = cleaner.view('red', 'Train')
    cleaner.choose(2, 'blue <b>')
    cleaner.choose(3, '<Delete>')
    until(lambda: cleaner.cell.get_by_text('2 of these 4 marked').count(), 60, 'both marks are counted')
    shot(page, 'cleaner')
    other = cleaner.view('blue <b>', 'Valid')
    until(lambda: {*cleaner.marks()}=={'<Keep>'}, 60, 'nothing is marked here')
    cleaner.choose(2, 'yellow')
    assert cleaner.view('red', 'Train')==first
    marks = ['blue <b>','<Delete>','<Keep>','<Keep>']
    until(lambda: cleaner.marks()==marks, 60, 'the marks are there')
    cleaner.cell.get_by_role('button', name='less bad').click()
    until(lambda: len(cleaner.marks())==2 and not {*cleaner.names()} & {*first}, 60, 'the rest is shown')
    pixels = cleaner.cell.locator('.widget-image, .jupyter-widgets img').first.evaluate('i => i.naturalWidth')
    assert pixels>=32
    nb.run(1)
    text = nb.cell(1).locator('.jp-OutputArea-output').inner_text()
    changed = sorted([(other[0],'yellow'), (first[0],'blue <b>')])
    assert text.split('\n')[:2]==[f'changed {changed}', f'deleted {[first[1]]}']
    page.close()

# The widgets of lessons that train for minutes: their cells and those that they need run, without training

# (a new head answers 0 for every class, and no slider would change its picture: it gets random weights)

NO_TRAINING = """
from coursekit.vision.all import *
def not_trained(self, *args, **kwargs):
    set_seed(0)
    with torch.no_grad():
        for p in self.model[-1].parameters(): p.normal_(std=0.1)
for method in ('fit','fit_one_cycle','fit_flat_cos','fine_tune'): setattr(Learner, method, not_trained)
"""

class WithoutChecks(ast.NodeTransformer):
    "A network that is not trained passes none"
    def visit_Assert(self, node): return ast.Pass()
    def visit_Expr(self, node):
        f = getattr(node.value, 'func', None)
        return ast.Pass() if getattr(f, 'id', '').startswith('test_') else node

def parsed(src): # A cell
    src = re.sub(r'^[%!].*$', '', src, flags=re.M)
    return WithoutChecks().visit(ast.parse(src))

def names(src): # Of a cell: what it defines, and what it uses
    tree,inner = parsed(src),(ast.FunctionDef,ast.ClassDef,ast.Lambda)
    def own(node): # The node and what is below it, but not what stands inside of functions
        yield node
        for o in ast.iter_child_nodes(node) if not isinstance(node, inner) else (): yield from own(o)
    nodes = list(own(tree))
    defined = {o.id for o in nodes if isinstance(o, ast.Name) and isinstance(o.ctx, ast.Store)}
    defined |= {o.name for o in nodes if isinstance(o, inner[:2])}
    imported = [a for o in nodes if isinstance(o, (ast.Import,ast.ImportFrom)) for a in o.names]
    defined |= {(a.asname or a.name).split('.')[0] for a in imported}
    used = [o for o in ast.walk(tree) if isinstance(o, ast.Name) and isinstance(o.ctx, ast.Load)]
    return defined,{o.id for o in used}

def needed_by(sources, i): # Positions of cells
    "Cell `i`, and the cells above it that define, directly or not, what it uses"
    res,wanted = [i],names(sources[i])[1]|{'*'}
    for j in range(i-1, -1, -1):
        defined,used = names(sources[j] or '')
        if defined & wanted:
            res.append(j)
            wanted |= used
    return sorted(res)

def test_needed_cells():
    cells = ['from x import *', 'a = f(1)\nprint(b)', None, 'c = a+1\nassert z', 'def draw(k):\n  q = 2*c',
             'q = learn.fit()', '%time a.x()', 'explore(draw, k=slider(0, 1, 0))']
    assert needed_by(cells, 7)==[0,1,3,4,7]

def widgets_of(name): # Positions of their cells
    return [i for i,c in enumerate(read_nb(ROOT/'nbs'/f'{name}.ipynb')['cells'])
            if c['cell_type']=='code' and EXPLORE.search(source(c))]

@pytest.mark.parametrize('name', ['14_transfer', '15_interpretation', '16_pets'])
def test_widgets_of_lessons_that_train(lab, browser, lessons_folder, name):
    found = widgets_of(name)
    assert found, f'{name} has no slider'
    cells = read_nb(ROOT/'nbs'/f'{name}.ipynb')['cells']
    sources = [source(c) if c['cell_type']=='code' else None for c in cells]
    wanted = sorted({j for i in found for j in needed_by(sources, i)})
    wanted = [j for j in wanted if '.lr_find(' not in sources[j]]          # it is a training, too
    nb = make_nb(NO_TRAINING.strip(), *(ast.unparse(parsed(sources[j])) for j in wanted))
    nb['metadata'] = dict(kernelspec=dict(name='python3', display_name='python3', language='python'))
    write_nb(nb, lessons_folder/f'widgets_of_{name}.ipynb')
    page = browser.new_page(viewport=dict(width=1280, height=900))
    page.set_default_timeout(20_000)
    nb = Notebook(page, lab, f'widgets_of_{name}')
    nb.run_all(seconds=240)
    assert nb.errors()==[]
    for i in found:
        move_controls(nb, wanted.index(i)+1)
        shot(page, f'{name}_{i}')
    page.close()
