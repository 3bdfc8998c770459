"""JupyterLab for tests: a server on a copy of the lessons, and an open notebook as its reader uses it.

`COURSEKIT_SCREENSHOTS=folder pytest tests/test_browser.py` keeps pictures of what the browser showed."""
import os, re, shutil, signal, socket, subprocess, sys, time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
import pytest
from coursekit.course.glossary import write_terms
from coursekit.course.notebooks import make_nb, write_nb
from coursekit.course.signposts import write_signposts
ROOT = Path(__file__).resolve().parents[1]
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

def ran(lab, browser, folder, name, *cells, seconds=180, height=900):
    "A new notebook of these cells, open in a page of its own; all have run, without an error"
    nb = make_nb(*cells)
    nb['metadata'] = dict(kernelspec=dict(name='python3', display_name='python3', language='python'))
    write_nb(nb, folder/f'{name}.ipynb')
    page = browser.new_page(viewport=dict(width=1280, height=height))
    page.set_default_timeout(20_000)
    nb = Notebook(page, lab, name)
    nb.run_all(seconds=seconds)
    assert nb.errors()==[]
    return nb

def shot(page, name):
    if not (d := os.environ.get('COURSEKIT_SCREENSHOTS')): return
    Path(d).mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(Path(d)/f'{name}.png'))

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
