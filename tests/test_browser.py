"""A lesson as a reader meets it: in JupyterLab, everything run, sliders moved, exercises answered"""
import importlib, inspect, json, re, subprocess, textwrap
import pytest
from coursekit.course.notebooks import code_cells, read_nb
from labs import EXPLORE, OPEN, PANEL, ROOT, TEXTS, Notebook, move_controls, running_lab, shot, until
from labs import lab, lessons_folder  # noqa: F401 (fixtures)
LESSON,EXERCISES = '02_gradients','coursekit.course.exercises.gradients'

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
