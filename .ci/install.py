"""Make `.venv` hold what the course is tested with: `python3 .ci/install.py [extra ...]` (default: dev).

It needs nothing but Python. A second run costs a fraction of a second; an interrupted one is repaired by the
next. The work is done when `.venv/.installed-<digest>` exists, the digest of the files below and Python's
version. A `.venv` without any such stamp was left half-made and is made afresh (pip keeps its downloads).
"""
import sys
if sys.version_info < (3, 11):
    sys.exit("coursekit needs Python 3.11 or newer; this is Python %d.%d (%s).\n"
             "Name a newer one, for instance:  make course PYTHON=python3.12"
             % (sys.version_info[0], sys.version_info[1], sys.executable))

import glob, hashlib, os, subprocess, time
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FILES = 'settings.ini', 'constraints.txt', 'setup.py', 'pyproject.toml'
NOT_OURS = 'PYTHONPATH', 'PYTHONHOME', 'PIP_USER', 'PIP_TARGET', 'PIP_PREFIX'
os.chdir(ROOT)
VENV = '.venv'
PY = os.path.join(VENV, *(('Scripts', 'python.exe') if os.name == 'nt' else ('bin', 'python')))
LOG = os.path.join(VENV, 'install.log')

def stamp(extras):
    "The file that says that `extras` are installed"
    h = hashlib.sha256(repr((sys.version, ROOT, extras)).encode())
    for name in FILES:
        with open(name, 'rb') as f: h.update(f.read())
    return os.path.join(VENV, f'.installed-{h.hexdigest()[:16]}')

def stamps(): return glob.glob(os.path.join(VENV, '.installed-*'))

def same_python():
    try: r = subprocess.run([PY, '-c', 'import sys; print(sys.version)'], capture_output=True, text=True)
    except OSError: return False
    return r.stdout.strip() == sys.version.strip()

def make_venv():
    try: import ensurepip, venv # noqa: F401
    except ImportError as e:
        sys.exit(f"This Python ({sys.executable}) cannot make a virtual environment: "
                 f"its module `{e.name}` is missing.\nOn Debian or Ubuntu:  "
                 "sudo apt-get install python3-venv   (then run the same command again)")
    base = getattr(sys, '_base_executable', None) or sys.executable   # also right when `.venv` is activated
    r = subprocess.run([base, '-m', 'venv', '--clear', VENV], capture_output=True, text=True)
    if r.returncode: sys.exit(f"Making {os.path.join(ROOT, VENV)} failed:\n{r.stdout}{r.stderr}")

class Progress:
    "What pip is doing, in one line: rewritten on a terminal, else now and then a new one"
    def __init__(self): self.t0, self.shown, self.n = time.time(), 0., 0
    def seconds(self): return time.time() - self.t0

    def follow(self, line): # A line that pip printed
        if line.startswith('Collecting '):
            self.n += 1
            self.show(f'Collecting packages: {self.n}, {line.split()[1]}')
        elif line.startswith(('Downloading ', 'Using cached ')):
            name = os.path.basename(line.split(' ', 1)[1])
            self.show(f'Collecting packages: {self.n}, {name}')
        elif line.startswith('Installing collected'):
            self.show(f'Installing {self.n} packages; this takes some minutes', always=True)

    def show(self, text, always=False):
        text = f'{text} ({self.seconds():4.0f} s)'
        if sys.stdout.isatty(): print('\r' + text[:100].ljust(100), end='', flush=True)
        elif always or time.time() - self.shown > 15:
            print(text, flush=True)
            self.shown = time.time()

def install(extras):
    "`pip install -e .[extras]` with its talk in a log; the seconds that it took"
    # modules are compiled when they are first imported, which are few of those installed
    quiet = ['--disable-pip-version-check', '--no-input', '--progress-bar', 'off', '--no-compile']
    cmd = [PY, '-m', 'pip', 'install', *quiet, '-e', f'.[{",".join(extras)}]', '-c', 'constraints.txt']
    env, progress = {k: v for k, v in os.environ.items() if k not in NOT_OURS}, Progress()
    talk = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding='utf-8', errors='replace')
    with open(LOG, 'w', encoding='utf-8') as log, subprocess.Popen(cmd, env=env, **talk) as p:
        for line in p.stdout:
            log.write(line)
            progress.follow(line.strip())
    if sys.stdout.isatty(): print()
    if p.returncode:
        with open(LOG, encoding='utf-8') as log: tail = log.read().strip().splitlines()[-15:]
        sys.exit('\n'.join(tail) + f"\n\nThe installation failed; the whole log is in {LOG}. "
                 "Run the same command again to go on: downloads are kept.")
    return progress.seconds()

def main(extras):
    if os.path.exists(stamp(extras)) and os.path.exists(PY): return
    if not stamps() or not same_python():
        print(f'Making {VENV} with Python {sys.version.split()[0]} and installing what the course needs: '
              'about 5 GB, most of it PyTorch. Once only.', flush=True)
        make_venv()
    elif os.path.exists(stamp(['dev'])):
        print(f'Adding to {VENV}: {", ".join(e for e in extras if e != "dev")}.', flush=True)
    else: print(f'settings.ini or constraints.txt changed: bringing {VENV} up to date.', flush=True)
    for s in stamps(): os.remove(s)
    t = install(extras)
    for e in (extras, ['dev']): # an environment with the benchmarks' extra has the lessons' too
        with open(stamp(e), 'w'): pass
    print(f'Installed in {t:.0f} s.', flush=True)

if __name__ == '__main__':
    try: main(sorted({'dev', *sys.argv[1:]}))
    except KeyboardInterrupt:
        sys.exit('\nInterrupted. Run the same command again to go on: downloads are kept.')
