"""Lesson 17: its table with more deals of the cards, and its cells for the real flowers

`COURSEKIT_DEALS=5 pytest -s tests/test_better.py` prints the table that the lesson quotes, in ten minutes;
without the variable that test is skipped. The flowers' cells (`COURSEKIT_REAL=1`) run on a folder laid out
like that archive, with 24 tiny pictures, and with a network of two layers for each of the lesson's.
"""
import json, os
from pathlib import Path
import numpy as np, pytest, torch
from PIL import Image
from torch import nn

ROOT = Path(__file__).parents[1]

def cells_of(lesson):
    nb = json.loads((ROOT/'nbs'/f'{lesson}.ipynb').read_text(encoding='utf-8'))
    return [''.join(c['source']) for c in nb['cells'] if c['cell_type']=='code']

NOT_NEEDED = '#| Drawing','#| Tests','baseline','one_run(0' # figures, and trainings before the table
AGAINST = {'presizing, then tta': 'presizing, augmentation'} # each other row: against the baseline
DEALS = int(os.environ.get('COURSEKIT_DEALS', 0))

@pytest.mark.skipif(not DEALS, reason='ten minutes: COURSEKIT_DEALS=5 pytest -s tests/test_better.py')
def test_the_table_with_more_deals():
    "All rows, deal after deal; what is printed says what so many deals can tell apart"
    ns,runs = {},{}
    for o in cells_of('17_better'):
        if o.startswith('seeds ='): break
        if not any(word in o for word in NOT_NEEDED): exec(o, ns)
    rows = {'baseline':{}} | ns['rows'] | ns['more_rows']
    for seed in range(DEALS):
        for name,changes in rows.items(): runs.setdefault(name, []).append(ns['one_run'](seed, **changes))
        print(f'deal {seed}:', {k:round(v[-1][0], 1) for k,v in runs.items()}, flush=True)
        if seed: show(runs, ns['interval'], AGAINST)
    assert min(o for v in runs.values() for o,_ in v)>40

def show(runs, interval, against):
    for name,run in runs.items():
        right,seconds = np.array(run).T
        mean,margin = interval(right-np.array(runs[against.get(name, 'baseline')])[:,0])
        print(f'{name:24} {right.mean():5.1f} ({right.min():.1f} to {right.max():.1f}), gain {mean:+5.1f} '
              f'± {margin:4.1f}, {seconds.mean():.0f} s', flush=True)

def archive_of_flowers(path): # As fast.ai's: pictures in `jpg`, and three lists of "name class"
    rng = np.random.default_rng(0)
    (path/'jpg').mkdir()
    lines = []
    for i in range(24):
        c = i%2
        pixels = rng.integers(0, 120, (30,40,3))+[[[130*c,0,130*(1-c)]]]
        Image.fromarray(pixels.astype('uint8')).save(path/'jpg'/f'image_{i:05}.jpg')
        lines.append(f'jpg/image_{i:05}.jpg {[16,84][c]}')
    for name,part in (('train',lines[:8]), ('valid',lines[8:16]), ('test',lines[16:])):
        (path/f'{name}.txt').write_text('\n'.join(part)+'\n')
    return path

def small(pretrained=False):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Linear(8, 9))
small.stats = ([.5]*3, [.5]*3)

def test_the_recipe_of_the_flowers_runs(tmp_path, capsys):
    cells = [o for o in cells_of('17_better') if o.startswith('#| real')]
    assert len(cells)>=3
    ns = {}
    exec('from coursekit.vision.all import *', ns)
    asked = []
    def untar(url):
        asked.append(url)
        return archive_of_flowers(tmp_path)
    ns.update(untar_data=untar, efficientnet_lite0=small, efficientnet_lite2=small)
    for o in cells: exec(o, ns)
    assert asked==[ns['URLs'].FLOWERS]
    df,results = ns['df'],ns['results']
    assert len(df)==24 and set(df['class'])=={16,84} and list(df.columns)==['name','class']
    assert ns['learn'].dls.c==2 and len(ns['learn'].dls.valid_ds)==4
    assert len(results)==6 and all(0<=v<=1 for v in results.values()), results
