"The lesson runner from outside: what a reader sees after `make course`, in a terminal and as files."
import io, json, os, re, shutil, signal, subprocess, sys, time
from pathlib import Path
import pytest
from coursekit.course.notebooks import make_nb, read_nb, write_nb
ROOT = Path(__file__).resolve().parents[1]
COMMAND = 'import sys; from coursekit.course.maintain import main; sys.exit(main())'

def nb(*cells):
    "A notebook that asks for a kernel which is not there"
    kernel = dict(name='no_such_kernel', display_name='x', language='python')
    return make_nb(*cells) | dict(metadata=dict(kernelspec=kernel))

GOOD = nb('md:# Can a page be read?\n\nSee [the other](02_bad.ipynb) and [a word](glossary.ipynb#x).',
          'import coursekit, sys\nprint(sys.executable); print(coursekit.__file__)',
          'print("→ 12 % right")\nprint("→ 97.9 % of digits right")')
BAD = nb('md:# What goes wrong?', 'x = {"a": 1}', 'y = x["b"]  # the culprit', 'print("→ never printed")')
NOTEBOOKS = {'01_good':GOOD, '02_bad':BAD, '03_after':nb('md:# After', 'print("→ still ran")'),
             'glossary':nb('md:# Words\n\nSee [where](library/page.ipynb).'),
             'library/page':nb('md:# A page of the library')}

def cli(folder, *args, **env):
    "Run the command in a folder with its own home; returns the finished process"
    env = os.environ | dict(PYTHONPATH=str(ROOT), HOME=str(folder/'home'), PYTHONUTF8='1') | env
    return subprocess.run([sys.executable, '-c', COMMAND, *args], cwd=folder, text=True, encoding='utf-8',
                          capture_output=True, env=env)

def another_jupyter(folder):
    "Somebody else's Jupyter: its kernel `python3` does not work, and its start-up file spoils everything"
    kernel = folder/'jupyter'/'kernels'/'python3'
    kernel.mkdir(parents=True)
    (kernel/'kernel.json').write_text(json.dumps(dict(argv=['false'], display_name='x', language='python')))
    startup = folder/'ipython'/'profile_default'/'startup'
    startup.mkdir(parents=True)
    (startup/'00.py').write_text('raise SystemExit(9)')
    return dict(JUPYTER_PATH=str(folder/'jupyter'), IPYTHONDIR=str(folder/'ipython'))

@pytest.fixture(scope='module')
def ran(tmp_path_factory):
    "A folder in which the course has run, and the finished process"
    folder = tmp_path_factory.mktemp('course')
    for d in ('nbs/library', 'home'): (folder/d).mkdir(parents=True)
    for name,o in NOTEBOOKS.items(): write_nb(o, folder/'nbs'/f'{name}.ipynb')
    def contents(): return {p: p.read_bytes() for p in (folder/'nbs').rglob('*.ipynb')}
    before = contents()
    r = cli(folder, 'course', **another_jupyter(folder))
    assert before == contents(), 'a lesson was written back'
    return folder,r

def pages(folder): # dict: path below the folder → text
    return {p.relative_to(folder).as_posix(): p.read_text(encoding='utf-8') for p in folder.rglob('*.html')}

def test_table_and_exit_code(ran):
    r = ran[1]
    assert r.returncode == 1, r.stdout + r.stderr
    table = r.stdout.strip().splitlines()[-4:]
    assert re.fullmatch(r'lesson +seconds  result', table[0])
    assert re.fullmatch(r'01_good +\d+  97\.9 % of digits right', table[1])
    assert re.fullmatch(r"02_bad +\d+  FAILED in code cell 2 of 3: KeyError: 'b'", table[2])
    assert re.fullmatch(r'03_after +\d+  still ran', table[3])
    assert 'y = x["b"]  # the culprit' in r.stdout
    assert 'Traceback' not in r.stderr

def test_progress_without_a_terminal_is_plain_lines(ran):
    assert '\r' not in ran[1].stdout and '\x1b' not in ran[1].stdout

def test_lessons_run_in_this_python_with_this_package(ran):
    page = pages(ran[0]/'_course')['01_good.html']
    assert sys.executable in page and str(ROOT/'coursekit'/'__init__.py') in page

def test_every_link_on_a_page_leads_to_a_file(ran):
    folder = ran[0]/'_course'
    assert {'glossary.html','library/page.html'} <= {*pages(folder)}
    for name,text in pages(folder).items():
        if name.startswith('_static/'): continue                        # templates of the theme
        for link in re.findall(r'(?:href|src)="([^"#?:]+)', text):
            assert (folder/name).parent.joinpath(link).exists(), f'{name}: {link}'

def test_nothing_is_left_beside_the_folder_of_the_pages(ran):
    assert sorted(p.name for p in ran[0].iterdir()) == ['_course','home','ipython','jupyter','nbs']

def test_a_lesson_that_fails_has_a_page_with_the_error(ran):
    page = pages(ran[0]/'_course')['02_bad.html']
    assert 'the culprit' in page and 'KeyError' in page

def test_only_some_lessons(ran):
    "The others keep what an earlier run found; where there was none they show their committed outputs"
    folder = ran[0]
    for dest,result in (('_course','97.9 % of digits right'), ('other','–')):
        r = cli(folder, 'course', '--only', '03', '--dest', str(folder/dest))
        assert r.returncode == 0 and r.stdout.strip().splitlines()[-1].startswith('03_after')
        rows = re.findall(r'<tr.*?</tr>', pages(folder/dest)['index.html'], re.S)[1:]
        assert 'still ran' in rows[2] and result in rows[0]
        assert ('FAILED in code cell 2 of 3: KeyError' in rows[1]) == (dest=='_course')
    shutil.rmtree(folder/'other')
    r = cli(folder, 'course', '--only', '09')
    assert r.returncode == 1 and "No lesson starts with '09'" in r.stderr and 'Traceback' not in r.stderr

def test_outside_a_checkout(tmp_path):
    r = cli(tmp_path, 'course')
    assert r.returncode == 1 and 'checkout' in r.stderr and 'Traceback' not in r.stderr

def test_lab_on_a_folder_of_any_name(tmp_path):
    pytest.importorskip('jupyterlab', reason='jupyterlab comes with the dev extra')
    folder = tmp_path/'my lessons'
    folder.mkdir()
    write_nb(nb('1'), folder/'01_a.ipynb')
    r = cli(tmp_path, '--nbs', str(folder), 'lab', '--version')
    assert r.returncode == 0 and re.match(r'\d+\.\d+', r.stdout), r.stdout + r.stderr

@pytest.mark.parametrize('args', ['--nbs lessons stale', 'stale --nbs lessons', 'stale --nbs=lessons'])
def test_folder_before_or_after_the_command(tmp_path, args):
    (tmp_path/'lessons').mkdir()
    write_nb(nb('1'), tmp_path/'lessons'/'01_a.ipynb')
    r = cli(tmp_path, *args.split())
    assert r.returncode == 1 and '01_a.ipynb: never stamped' in r.stdout, r.stderr

def test_progress_on_a_terminal():
    "The progress is one line, rewritten"
    from coursekit.course.run import Ticker
    class Terminal(io.StringIO):
        def isatty(self): return True
    out = Terminal()
    with Ticker(3, out) as ticker:
        ticker.start('03_sgd')
        ticker.start('04_optimizers')
        ticker.cell('03_sgd', 5, 10)
        time.sleep(1.2)
        ticker.end('03_sgd', '97 %')
    s = out.getvalue()
    assert s.count('\r') >= 2 and s.count('\n') == 1
    assert '1/3 03_sgd' in s and 'cell 5/10' in s and '█' in s and '2/3 04_optimizers' in s
    assert re.search(r'1/3 03_sgd +\d s  97 %\n', s)

def test_ctrl_c_ends_the_lessons_and_writes_the_pages(tmp_path):
    "What ran before is on its page, the kernels are gone, and the table says what was stopped"
    folder = tmp_path/'nbs'
    folder.mkdir()
    write_nb(nb('md:# First', 'print("→ 42 % right")'), folder/'01_first.ipynb')
    wait = 'import os, time\nfrom pathlib import Path\nPath(f"pid_{os.getpid()}").touch()\ntime.sleep(120)'
    for o in ('02_second','03_third','04_fourth'): write_nb(nb(f'md:# {o}', wait), folder/f'{o}.ipynb')
    env = os.environ | dict(PYTHONPATH=str(ROOT), HOME=str(tmp_path), PYTHONUTF8='1')
    p = subprocess.Popen([sys.executable, '-c', COMMAND, 'course', '--at_once', '2'], cwd=tmp_path, env=env,
                         text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    for _ in range(300):
        pids = [int(o.name[4:]) for o in folder.glob('pid_*')]
        if len(pids)==2: break
        time.sleep(.2)
    p.send_signal(signal.SIGINT)
    out = p.communicate(timeout=90)[0]
    assert p.returncode == 1 and len(pids) == 2, out
    rows = out.strip().splitlines()[-4:]
    assert '42 % right' in rows[0] and all('stopped by the keyboard' in o for o in rows[1:]), out
    assert 'Traceback' not in out and '42 % right' in pages(tmp_path/'_course')['index.html']
    for o in pids:
        with pytest.raises(ProcessLookupError): os.kill(o, 0)

def test_stale_and_execute(tmp_path):
    path = tmp_path/'nbs'/'01_a.ipynb'
    path.parent.mkdir()
    write_nb(nb('print("→ 1")'), path)
    (tmp_path/'settings.ini').write_text((ROOT/'settings.ini').read_text(encoding='utf-8'), encoding='utf-8')
    assert cli(tmp_path, 'stale').returncode == 1
    r = cli(tmp_path, 'execute', '01')
    assert r.returncode == 0, r.stdout + r.stderr
    assert cli(tmp_path, 'stale').returncode == 0
    o = read_nb(path)
    o['cells'][0]['source'] = ['print("→ 2")']
    write_nb(o, path)
    r = cli(tmp_path, 'stale')
    assert r.returncode == 1 and '01_a.ipynb: a code cell changed' in r.stdout
