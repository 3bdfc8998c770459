"""Make `.venv` hold what the course is tested with: `python3 .ci/install.py [extra ...]` (default: dev).

It needs nothing but Python. A second run costs a fraction of a second; an interrupted one is repaired by the next.
The work is done when `.venv/.installed-<digest>` exists, where the digest covers the files below and the Python version.
A `.venv` without any such stamp was left half-made and is made afresh (pip keeps what it has downloaded).
"""
import sys
if sys.version_info < (3, 10):
    sys.exit("coursekit needs Python 3.10 or newer; this is Python %d.%d (%s).\n"
             "Name a newer one, for instance:  make course PYTHON=python3.12" % (sys.version_info[0], sys.version_info[1], sys.executable))

import glob, hashlib, os, subprocess, time
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FILES = 'settings.ini', 'constraints.txt', 'setup.py', 'pyproject.toml'
os.chdir(ROOT)
VENV = '.venv'
PY = os.path.join(VENV, *(('Scripts', 'python.exe') if os.name == 'nt' else ('bin', 'python')))
LOG = os.path.join(VENV, 'install.log')

def digest(extras):
    h = hashlib.sha256(repr((sys.version, ROOT, extras)).encode())
    for f in FILES: h.update(open(f, 'rb').read())
    return h.hexdigest()[:16]

def stamps(): return glob.glob(os.path.join(VENV, '.installed-*'))

def same_python():
    try: return subprocess.run([PY, '-c', 'import sys; print(sys.version)'], capture_output=True, text=True).stdout.strip() == sys.version.strip()
    except OSError: return False

def make_venv():
    try: import ensurepip, venv
    except ImportError as e:
        sys.exit(f"This Python ({sys.executable}) cannot make a virtual environment: its module `{e.name}` is missing.\n"
                 f"On Debian or Ubuntu:  sudo apt-get install python3-venv   (then run the same command again)")
    base = getattr(sys, '_base_executable', None) or sys.executable   # also right when `.venv` itself is activated
    r = subprocess.run([base, '-m', 'venv', '--clear', VENV], capture_output=True, text=True)
    if r.returncode: sys.exit(f"Making {os.path.join(ROOT, VENV)} failed:\n{r.stdout}{r.stderr}")

def say(line, last=[0.]):
    "Show `line`: in place on a terminal, else as a line of its own now and then"
    if sys.stdout.isatty(): print('\r' + line[:100].ljust(100), end='', flush=True)
    elif line.startswith('Installing') or time.time() - last[0] > 15: print(line, flush=True); last[0] = time.time()

def install(extras):
    "`pip install -e .[extras]` with its talk in a log and one line of progress"
    cmd = [PY, '-m', 'pip', 'install', '--disable-pip-version-check', '--no-input', '--progress-bar', 'off',
           '-e', f'.[{",".join(extras)}]', '-c', 'constraints.txt']
    env = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'PYTHONHOME', 'PIP_USER', 'PIP_TARGET', 'PIP_PREFIX')}
    t0, n = time.time(), 0
    with open(LOG, 'w', encoding='utf-8') as log, \
         subprocess.Popen(cmd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding='utf-8', errors='replace', env=env) as p:
        for line in p.stdout:
            log.write(line)
            t, line = f'{time.time() - t0:4.0f} s', line.strip()
            if line.startswith('Collecting '): n += 1; say(f'Collecting packages: {n}, {line.split()[1]} ({t})')
            elif line.startswith(('Downloading ', 'Using cached ')): say(f'Collecting packages: {n}, {os.path.basename(line.split(" ", 1)[1])} ({t})')
            elif line.startswith('Installing collected'): say(f'Installing {n} packages; this takes some minutes ({t})')
    if sys.stdout.isatty(): print()
    if p.returncode:
        tail = open(LOG, encoding='utf-8').read().strip().splitlines()[-15:]
        sys.exit('\n'.join(tail) + f"\n\nThe installation failed; the whole log is in {LOG}. Run the same command again to go on: downloads are kept.")
    return time.time() - t0

def main(extras):
    stamp = lambda e: os.path.join(VENV, f'.installed-{digest(e)}')
    if os.path.exists(stamp(extras)) and os.path.exists(PY): return
    if not stamps() or not same_python():
        print(f'Making {VENV} with Python {sys.version.split()[0]} and installing what the course needs: about 5 GB, most of it PyTorch. Once only.', flush=True)
        make_venv()
    elif os.path.exists(stamp(['dev'])): print(f'Adding to {VENV}: {", ".join(e for e in extras if e != "dev")}.', flush=True)
    else: print(f'settings.ini or constraints.txt changed: bringing {VENV} up to date.', flush=True)
    for s in stamps(): os.remove(s)
    t = install(extras)
    for e in (extras, ['dev']): open(stamp(e), 'w').close()   # whoever has the benchmarks' extra has the lessons' too
    print(f'Installed in {t:.0f} s.', flush=True)

if __name__ == '__main__':
    try: main(sorted({'dev', *sys.argv[1:]}))
    except KeyboardInterrupt: sys.exit('\nInterrupted. Run the same command again to go on: downloads are kept.')
