"What the tests share: the checkout, the real data (skipped where absent), a browser (skipped where absent)."
import os, shutil, signal
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parents[1]

# Shells start background jobs with Ctrl-C ignored; the tests that send one need Python's own answer to it.
if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Whole files that take long, the longest first. They begin first, so that no process of `pytest -n` idles at
# the end, and `pytest -m "not slow"` leaves them out. A single slow test has `@pytest.mark.slow`.
SLOW = ('test_browser', 'test_widgets', 'test_app', 'test_real_photos', 'test_install', 'test_mnist_notes',
        'test_fastai_idioms', 'test_learner', 'test_course', 'test_pages', 'test_sketch_pets')

def pytest_collection_modifyitems(items):
    def rank(item): return SLOW.index(item.path.stem) if item.path.stem in SLOW else len(SLOW)
    items.sort(key=rank)
    for item in items:
        if rank(item)<len(SLOW): item.add_marker('slow')

def pytest_report_header(config):
    where = os.environ.get('COURSEKIT_REAL_DATA') or 'none (set COURSEKIT_REAL_DATA to check against it)'
    return f'real data: {where}'

@pytest.fixture(scope='session')
def root(): return ROOT

@pytest.fixture(scope='session')
def real_data():
    "The folder of real data for checking"
    d = os.environ.get('COURSEKIT_REAL_DATA')
    if not d: pytest.skip('no real data: COURSEKIT_REAL_DATA is not set')
    if not Path(d).is_dir(): pytest.fail(f'COURSEKIT_REAL_DATA={d} is not a folder')
    return Path(d)

@pytest.fixture
def folder(tmp_path):
    "Twenty pictures of two kinds, of sizes that differ"
    import torch
    from PIL import Image
    g = torch.Generator().manual_seed(0)
    for i in range(20):
        kind,(w,h) = ('cat','dog')[i%2],(40+i,60-i)
        px = torch.randint(0, 120, (h,w,3), generator=g, dtype=torch.uint8)
        px[...,i%2] += 120
        Image.fromarray(px.numpy()).save(tmp_path/f'{kind}_{i}.jpg')
    return tmp_path

@pytest.fixture(scope='session')
def browser():
    "A headless Chromium"
    pw = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    exe = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    args = ['--no-sandbox'] if hasattr(os, 'geteuid') and os.geteuid()==0 else []
    with pw.sync_playwright() as p:
        try: b = p.chromium.launch(executable_path=exe, args=args)
        except pw.Error as e: pytest.skip(f'no Chromium to start: {str(e).splitlines()[0]}')
        yield b
        b.close()
