"""A lesson as a reader meets it: JupyterLab in a browser, everything run, sliders moved, an exercise answered wrongly and then rightly.

`COURSEKIT_SCREENSHOTS=folder pytest tests/test_browser.py` keeps pictures of what the browser showed."""
import importlib, inspect, os, re, shutil, signal, socket, subprocess, sys, textwrap, time, urllib.request
from pathlib import Path
import pytest
ROOT = Path(__file__).resolve().parents[1]
LESSON,EXERCISES = '02_gradients','coursekit.course.exercises.gradients'

def free_port():
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); return s.getsockname()[1]

@pytest.fixture(scope='module')
def lab(tmp_path_factory, browser):
    "The address of `coursekit lab` on a copy of the lessons, started as by somebody who never started Jupyter before"
    pytest.importorskip('jupyterlab', reason='jupyterlab comes with the dev extra'); pytest.importorskip('ipywidgets')
    tmp = tmp_path_factory.mktemp('lab'); (tmp/'nbs').mkdir(); (tmp/'home').mkdir()
    for p in (ROOT/'nbs').glob('*.ipynb'): shutil.copy(p, tmp/'nbs')
    url,log = f'http://127.0.0.1:{free_port()}',open(tmp/'lab.log', 'w+')
    env = {k:v for k,v in os.environ.items() if not k.startswith(('JUPYTER','IPYTHON','XDG_'))}
    env |= dict(HOME=str(tmp/'home'), PYTHONPATH=str(ROOT), PYTHONUTF8='1', OMP_NUM_THREADS='1')
    cmd = [sys.executable, '-c', 'import sys; from coursekit.course.maintain import main; sys.exit(main())', '--nbs', str(tmp/'nbs'), 'lab', '--no-browser', '--IdentityProvider.token=',
           f'--ServerApp.port={url.split(":")[-1]}', '--ServerApp.port_retries=0', '--LabApp.expose_app_in_browser=True', '--LabApp.news_url=none', '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate']
    p = subprocess.Popen(cmd, cwd=tmp, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=hasattr(os, 'setsid'))
    try:
        until(lambda: answers(f'{url}/api') or p.poll() is not None, 60, 'JupyterLab starts')
        if p.poll() is not None: log.seek(0); pytest.fail(f'JupyterLab ended:\n{log.read()[-3000:]}')
        yield url
    finally:
        stop(p); log.close()

def stop(p): # The server is a child of `coursekit lab`; both end on one interrupt to their session, and kernels with them
    if p.poll() is None:
        os.killpg(p.pid, signal.SIGTERM) if hasattr(os, 'killpg') else p.terminate()
        try: p.wait(20)
        except subprocess.TimeoutExpired: os.killpg(p.pid, signal.SIGKILL) if hasattr(os, 'killpg') else p.kill(); p.wait()

def answers(url):
    try: return urllib.request.urlopen(url, timeout=2).status==200
    except OSError: return False

def until(f, seconds, what):
    end = time.monotonic()+seconds
    while time.monotonic()<end:
        if res := f(): return res
        time.sleep(.1)
    pytest.fail(f'{what}: not within {seconds} s')

class Notebook:
    "A notebook that is open in the browser. What it contains is asked of JupyterLab's own model, for it draws only the cells in view"
    def __init__(self, page, url, name):
        self.page,self.name = page,name
        page.goto(f'{url}/lab/tree/{name}.ipynb')
        page.wait_for_function('name => { const w = window.jupyterapp?.shell.currentWidget; return w?.context?.path===name && w.context.isReady && w.sessionContext.session?.kernel?.status==="idle" }',
                               arg=f'{name}.ipynb', timeout=60_000)
    def js(self, body, arg=None): return self.page.evaluate(f'async arg => {{ const w = window.jupyterapp.shell.currentWidget, nb = w.content, cells = [...nb.model.cells]; {body} }}', arg)
    def wait(self, body, arg=None, seconds=60):
        self.page.wait_for_function(f'arg => {{ const w = window.jupyterapp.shell.currentWidget, nb = w.content, cells = [...nb.model.cells]; {body} }}', arg=arg, timeout=1000*seconds)
    def sources(self): return self.js('return cells.map(c => c.type==="code" ? c.sharedModel.getSource() : null)')
    def errors(self): return self.js('return cells.flatMap((c,i) => c.type==="code" ? c.sharedModel.getOutputs().filter(o => o.output_type==="error").map(o => `cell ${i}: ${o.ename}: ${o.evalue}`) : [])')
    def index(self, pat): # Number of the first code cell that matches
        return next((i for i,s in enumerate(self.sources()) if s is not None and re.search(pat, s, re.M)), None)
    def cell(self, i): # That cell on the page, in view
        "Scroll as a reader would until cell `i` is drawn"
        self.js('nb.activeCellIndex = arg; nb.deselectAll(); await nb.scrollToItem(arg, "center")', i)
        cell = self.page.locator(f'.jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell[data-windowed-list-index="{i}"]'); cell.wait_for()
        cell.scroll_into_view_if_needed(); return cell
    def run_all(self, seconds=75):
        "By the menu; every code cell has been counted by the kernel when this returns"
        self.page.get_by_role('menuitem', name='Run', exact=True).click()
        self.page.get_by_role('menuitem', name='Run All Cells', exact=True).click()
        self.wait('''const code = cells.filter(c => c.type==="code" && c.sharedModel.getSource().trim());
            return w.sessionContext.session.kernel.status==="idle" && (code.every(c => c.executionCount!==null) || code.some(c => c.sharedModel.getOutputs().some(o => o.output_type==="error")))''', seconds=seconds)
    def answer(self, i, source): # Text of the check's verdict, and its state
        "Replace the text of cell `i` and press shift-enter"
        cell = self.cell(i); before = self.js('return cells[arg].executionCount', i)
        cell.locator('.cm-content').click(); self.page.keyboard.press('ControlOrMeta+a'); self.page.keyboard.insert_text(source); self.page.keyboard.press('Shift+Enter')
        self.wait('return cells[arg[0]].executionCount>arg[1] && w.sessionContext.session.kernel.status==="idle"', [i, before or 0])
        return self.verdict(i)
    def verdict(self, i): box = self.cell(i).locator('.ck-check'); box.wait_for(); return box.get_attribute('data-state'),box.inner_text()
    def picture(self, cell): return cell.locator('.widget-image, .jupyter-widgets img').first.evaluate('async i => { const b = new Uint8Array(await (await fetch(i.src)).arrayBuffer()); return Array.from(b).join() }')

def shot(page, name):
    if d := os.environ.get('COURSEKIT_SCREENSHOTS'): Path(d).mkdir(parents=True, exist_ok=True); page.screenshot(path=str(Path(d)/f'{name}.png'))

@pytest.fixture(scope='module')
def page(browser):
    p = browser.new_page(viewport=dict(width=1280, height=900)); p.set_default_timeout(20_000)
    yield p
    p.close()

@pytest.fixture(scope='module')
def lesson(lab, page):
    nb = Notebook(page, lab, LESSON)
    shot(nb.page, 'opened')
    nb.run_all(); shot(nb.page, 'run')
    return nb

def test_runs_to_the_end(lesson):
    assert lesson.errors()==[]
    assert sum(s is not None for s in lesson.sources())>10

def test_sliders_move_and_the_figure_follows(lesson):
    found = [i for i,s in enumerate(lesson.sources()) if s and re.search(r'^explore\(', s, re.M)]
    assert found, f'{LESSON} has no widget'
    for i in found:
        cell = lesson.cell(i); handle = cell.locator('.noUi-handle').first; handle.wait_for(); cell.locator('img').first.wait_for()
        readout = cell.locator('.widget-readout').first; texts,moves,old = {readout.inner_text()},0,lesson.picture(cell)
        handle.focus()
        for key in ('Home','End','ArrowLeft'):
            at = handle.get_attribute('aria-valuetext'); handle.press(key)
            if handle.get_attribute('aria-valuetext')==at: continue                       # it was at that end already
            until(lambda: lesson.picture(cell)!=old, 20, f'the figure of cell {i} follows the slider'); old = lesson.picture(cell)
            moves += 1; texts.add(readout.inner_text())
        assert moves>=2 and len(texts)>=2, f'cell {i}: {moves} moves, {texts}'
        assert not cell.locator('pre', has_text='Error').count(), f'cell {i}: an error below the figure'
        shot(lesson.page, f'slider_{i}')

def exercises(): return importlib.import_module(EXERCISES).check.all
def is_value(ex): return ex.cases is None and not ex.observe

def test_value_exercise_from_not_yet_to_a_hint_to_done(lesson):
    ex = next(e for e in exercises().values() if is_value(e)); (wrong,hint),*_ = ex.mistakes
    i = lesson.index(rf"check\(['\"]{ex.name}['\"]"); stub = lesson.sources()[i]
    assert stub.count('...')==1 and lesson.verdict(i)[0]=='not yet'
    shot(lesson.page, 'not_yet')
    state,text = lesson.answer(i, stub.replace('...', repr(wrong))); shot(lesson.page, 'hint')
    assert state=='hint' and plain(hint) in text
    state,text = lesson.answer(i, stub.replace('...', repr(ex.answer))); shot(lesson.page, 'done')
    assert state=='done' and plain(ex.done) in text

def plain(md): return md.replace('`', '')

def test_function_exercise_from_not_yet_to_a_hint_to_done(lesson):
    ex = next(e for e in exercises().values() if inspect.isfunction(e.answer) and e.cases)
    i = lesson.index(rf'check\({ex.name}\)'); assert lesson.verdict(i)[0]=='not yet'
    state,text = lesson.answer(i, f'def {ex.name}(*args, **kwargs):\n    raise ValueError("not what I meant")\n\ncheck({ex.name})'); shot(lesson.page, 'raised')
    assert state=='hint' and 'not what I meant' in text
    src = textwrap.dedent(inspect.getsource(ex.answer)); src = src[re.search(r'^def ', src, re.M).start():]
    state,text = lesson.answer(i, f'{src}\ncheck({ex.name})'); shot(lesson.page, 'done_function')
    assert state=='done' and plain(ex.done) in text

def test_a_bold_word_leads_to_the_glossary(lesson):
    "Last, for it leaves the lesson. JupyterLab 4.6 opens a notebook at its top, and goes to the word itself once the glossary is open"
    cells,page = lesson.js('return cells.map(c => c.type==="markdown" ? c.sharedModel.getSource() : "")'),lesson.page
    i,term = next((i,m[1]) for i,s in enumerate(cells) if (m := re.search(r'\]\(glossary\.ipynb#([\w-]+)\)', s)))
    def click():
        lesson.cell(i).locator('a[href*="glossary.ipynb"]').first.click()
        page.wait_for_function('() => { const w = window.jupyterapp.shell.currentWidget; return w?.context?.path==="glossary.ipynb" && w.context.isReady }', timeout=30_000)
    click()
    heading = page.locator(f'.jp-NotebookPanel:not(.lm-mod-hidden) h3[data-jupyter-id="{term}"]'); heading.wait_for(state='attached')
    page.get_by_role('tab', name=f'{LESSON}.ipynb').first.click(); lesson.wait(f'return w.context.path==="{LESSON}.ipynb"'); click()
    until(lambda: (b := heading.bounding_box()) and 0<b['y']<850, 10, f'the glossary shows {term}')
    shot(page, 'glossary')
