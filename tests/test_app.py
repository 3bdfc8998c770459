"The widgets that classify an upload, as people meet them: in JupyterLab, and as an app by Voilà"
import os, re, subprocess, sys
from contextlib import contextmanager
import numpy as np, pytest
from PIL import Image
from coursekit.course.notebooks import make_nb, write_nb
from labs import ROOT, Notebook, free_port, home_of, running_lab, shot, stop, until

APP = """
from coursekit.vision.all import *
from coursekit.serve import ImageClassifierApp
ImageClassifierApp('model.safetensors', title='A photo, please')
"""

@pytest.fixture(scope='module')
def app_folder(tmp_path_factory):
    "A notebook of the app, an exported model for it, and two files to upload"
    from coursekit.vision.all import ImageDataLoaders, Learner, Resize, nn, set_seed
    folder = tmp_path_factory.mktemp('app')
    for kind,channel in dict(red=0, green=1).items():
        (folder/'data'/kind).mkdir(parents=True)
        for i in range(8):
            px = np.random.default_rng(i).integers(0, 90, (24,32,3), dtype='uint8')
            px[...,channel] += 150
            Image.fromarray(px).save(folder/'data'/kind/f'{i}.png')
    dls = ImageDataLoaders.from_folder(folder/'data', valid_pct=0.25, seed=0, item_tfms=Resize(16), bs=8)
    set_seed(0)
    learn = Learner(dls, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)), path=folder)
    with learn.no_bar(), learn.no_logging(): learn.fit(30, lr=0.3)
    learn.export('model')
    nb = make_nb(APP.strip())
    nb['metadata'] = dict(kernelspec=dict(name='python3', display_name='python3', language='python'))
    write_nb(nb, folder/'00_app.ipynb')
    (folder/'letter.jpg').write_text('I am no picture')
    return folder

def uploads_are_classified(page, place, folder):
    "Upload a red picture, text, and a green picture; `place` is where the widgets are"
    button = place.get_by_role('button', name='A photo, please')
    button.wait_for(timeout=60_000)
    def said(name):
        with page.expect_file_chooser() as chooser: button.click()
        chooser.value.set_files(folder/name)
        return place.locator('.widget-html').first
    for name,pattern in {'data/red/0.png':r'^red: \d', 'letter.jpg':'it is no picture that we open',
                         'data/green/1.png':r'^green: \d'}.items():
        text = said(name)
        until(lambda text=text, pattern=pattern: re.search(pattern, text.inner_text().strip()), 20, pattern)
        shown = place.locator('.widget-image, img').first.is_visible()
        assert shown==name.endswith('.png')

def test_in_jupyterlab(app_folder, browser, tmp_path):
    with running_lab(app_folder, tmp_path, '--edit') as url:
        page = browser.new_page(viewport=dict(width=1000, height=700))
        nb = Notebook(page, url, '00_app')
        nb.run_all()
        assert nb.errors()==[]
        uploads_are_classified(page, nb.cell(0), app_folder)
        shot(page, 'app_in_lab')
        page.close()

@contextmanager
def running_voila(notebook, tmp):
    "The address of an app of its own: no code is shown"
    port = free_port()
    url,home = f'http://127.0.0.1:{port}',home_of(tmp)
    env = {k:v for k,v in os.environ.items() if not k.startswith(('JUPYTER','IPYTHON','XDG_'))}
    env |= dict(HOME=str(home), PYTHONPATH=str(ROOT), PYTHONUTF8='1', OMP_NUM_THREADS='1')
    command = [sys.executable, '-m', 'voila', notebook.name, '--no-browser', f'--port={port}']
    with open(tmp/'voila.log', 'w+') as log:
        p = subprocess.Popen(command, cwd=notebook.parent, env=env, stdout=log, stderr=subprocess.STDOUT,
                             start_new_session=hasattr(os, 'setsid'))
        try:
            started = b'is running at'
            def is_ready(): return started in (tmp/'voila.log').read_bytes() or p.poll() is not None
            until(is_ready, 60, 'Voilà starts')
            if p.poll() is not None: pytest.fail(f'Voilà ended:\n{(tmp/"voila.log").read_text()[-3000:]}')
            yield url
        finally: stop(p)

def test_by_voila(app_folder, browser, tmp_path):
    pytest.importorskip('voila', reason='voila comes with the extras `ship` and `dev`')
    with running_voila(app_folder/'00_app.ipynb', tmp_path) as url:
        page = browser.new_page(viewport=dict(width=1000, height=700))
        page.goto(url, timeout=60_000)
        uploads_are_classified(page, page, app_folder)
        assert 'ImageClassifierApp' not in page.inner_text('body')              # no code
        shot(page, 'app_by_voila')
        page.close()
