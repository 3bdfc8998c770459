"The lesson runner from outside: what a reader sees after `make course`, in a terminal and in a browser."
import json, os, re, subprocess, sys
from pathlib import Path
import pytest
ROOT = Path(__file__).resolve().parents[1]

def nb(*cells):
    mk = lambda i, s: dict(cell_type='markdown', id=f'c{i}', metadata={}, source=s[3:]) if s.startswith('md:') else \
                      dict(cell_type='code', id=f'c{i}', execution_count=None, metadata={}, outputs=[], source=s)
    return dict(cells=[mk(i, s) for i, s in enumerate(cells)], metadata=dict(kernelspec=dict(name='no_such_kernel', display_name='x', language='python')), nbformat=4, nbformat_minor=5)

GOOD = nb('md:# Can a page be read?\n\nSee [the other](02_bad.ipynb).', 'import matplotlib.pyplot as plt\nplt.plot([1, 2, 3]); plt.title("It rises");',
          '#| hide\nsecret = 1', 'import coursekit, sys\nprint(sys.executable); print(coursekit.__file__)', 'print("→ 12 % right")\nprint("→ 97.9 % of digits right")')
BAD = nb('md:# What goes wrong?', 'x = {"a": 1}', 'y = x["b"]  # the culprit', 'print("→ never printed")')

def cli(tmp, *args, **env):
    "Run the command in a folder with its own home; returns the finished process"
    return subprocess.run([sys.executable, '-c', 'import sys; from coursekit.course.maintain import main; sys.exit(main())', *args], cwd=tmp, text=True, encoding='utf-8',
                          capture_output=True, env=os.environ | dict(PYTHONPATH=str(ROOT), HOME=str(tmp/'home'), PYTHONUTF8='1') | env)

@pytest.fixture(scope='module')
def ran(tmp_path_factory):
    tmp = tmp_path_factory.mktemp('course'); (tmp/'nbs').mkdir(); (tmp/'home').mkdir()
    for n, c in (('01_good', GOOD), ('02_bad', BAD), ('03_after', nb('md:# After', 'print("→ still ran")'))): (tmp/'nbs'/f'{n}.ipynb').write_text(json.dumps(c))
    # somebody else's Jupyter, with a `python3` kernel that does not work and a start-up file that spoils everything
    k = tmp/'jupyter'/'kernels'/'python3'; k.mkdir(parents=True); (k/'kernel.json').write_text(json.dumps(dict(argv=['false'], display_name='x', language='python')))
    s = tmp/'ipython'/'profile_default'/'startup'; s.mkdir(parents=True); (s/'00.py').write_text('raise SystemExit(9)')
    before = {p.name: p.read_bytes() for p in (tmp/'nbs').iterdir()}
    r = cli(tmp, 'course', JUPYTER_PATH=str(tmp/'jupyter'), IPYTHONDIR=str(tmp/'ipython'))
    assert before == {p.name: p.read_bytes() for p in (tmp/'nbs').iterdir()}, 'a lesson was written back'
    return tmp, r

def test_table_and_exit_code(ran):
    tmp, r = ran
    assert r.returncode == 1, r.stdout + r.stderr
    table = r.stdout.strip().splitlines()[-4:]
    assert re.fullmatch(r'lesson +seconds  result', table[0])
    assert re.fullmatch(r'01_good +\d+  97\.9 % of digits right', table[1])
    assert re.fullmatch(r"02_bad +\d+  FAILED in code cell 2 of 3: KeyError: 'b'", table[2])
    assert re.fullmatch(r'03_after +\d+  still ran', table[3])
    assert 'y = x["b"]  # the culprit' in r.stdout
    assert 'Traceback' not in r.stderr

def test_progress_without_a_terminal_is_plain_lines(ran): assert '\r' not in ran[1].stdout and '\x1b' not in ran[1].stdout

def test_lessons_run_in_this_python_with_this_package(ran):
    page = (ran[0]/'_course'/'01_good.html').read_text(encoding='utf-8')
    assert sys.executable in page and str(ROOT/'coursekit'/'__init__.py') in page

def test_only(ran):
    r = cli(ran[0], 'course', '--only', '03', '--dest', str(ran[0]/'other'))
    assert r.returncode == 0 and r.stdout.strip().splitlines()[-1].startswith('03_after')
    r = cli(ran[0], 'course', '--only', '09')
    assert r.returncode == 1 and "No lesson starts with '09'" in r.stderr and 'Traceback' not in r.stderr

def test_outside_a_checkout(tmp_path):
    r = cli(tmp_path, 'course')
    assert r.returncode == 1 and 'checkout' in r.stderr and 'Traceback' not in r.stderr

def test_progress_on_a_terminal(ran):
    "On a pseudo-terminal the progress is one line, rewritten"
    pty = pytest.importorskip('pty'); import io
    from coursekit.course.run import Ticker
    import time
    class Tty(io.StringIO):
        def isatty(self): return True
    out = Tty(); t = Ticker(out); t.start('03_sgd', '1/3'); t.cell(5, 10); time.sleep(1.2); t.end('97 %')
    s = out.getvalue()
    assert s.count('\r') >= 2 and 'cell 5/10' in s and '█' in s and s.count('\n') == 1 and s.rstrip().endswith('97 %')

def test_pages_load_nothing_from_the_network(ran):
    for p in (ran[0]/'_course').glob('*.html'):
        assert not re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)=["\']https?:[^>]+', p.read_text(encoding='utf-8')), p.name

def test_pages_in_a_browser(ran, browser):
    tmp, _ = ran
    page = browser.new_page(); requests, complaints = [], []
    page.on('request', lambda r: requests.append(r.url)); page.on('pageerror', lambda e: complaints.append(str(e)))
    page.goto((tmp/'_course'/'index.html').as_uri())
    assert page.locator('tr').count() == 4 and page.locator('tr.failed').inner_text().count('FAILED') == 1
    page.get_by_role('link', name='01_good').click(); page.wait_for_load_state()
    assert page.title() == 'Can a page be read?' and page.locator('h1').first.inner_text().startswith('Can a page be read?')
    img = page.locator('img').first
    assert img.evaluate('i => i.complete && i.naturalWidth') > 100
    assert '97.9 %' in page.inner_text('body') and 'secret' not in page.inner_text('body')
    page.get_by_role('link', name='the other').click(); page.wait_for_load_state()
    assert page.title() == 'What goes wrong?' and 'KeyError' in page.inner_text('body')
    page.get_by_role('link', name='all lessons').first.click(); page.wait_for_load_state()
    assert page.url.endswith('index.html')
    assert not [u for u in requests if u.startswith('http')] and not complaints
    page.close()

def test_stale_and_execute(tmp_path):
    (tmp_path/'nbs').mkdir(); (tmp_path/'nbs'/'01_a.ipynb').write_text(json.dumps(nb('print("→ 1")')))
    (tmp_path/'settings.ini').write_text((ROOT/'settings.ini').read_text(encoding='utf-8'), encoding='utf-8')
    assert cli(tmp_path, 'stale').returncode == 1
    r = cli(tmp_path, 'execute', '01'); assert r.returncode == 0, r.stdout + r.stderr
    assert cli(tmp_path, 'stale').returncode == 0
    p = tmp_path/'nbs'/'01_a.ipynb'; p.write_text(p.read_text().replace('print(\\"→ 1', 'print(\\"→ 2'))
    r = cli(tmp_path, 'stale'); assert r.returncode == 1 and '01_a.ipynb: a code cell changed' in r.stdout
