"How much memory a process needs at its peak: fresh interpreters import a library and train one epoch."
import json, os, subprocess, sys
from collections import defaultdict
from pathlib import Path
from .harness import Topic

left = defaultdict(list)      # each process measures three things, for three topics

def measured(lib, work, what): # MB
    q = left[lib,work,what]
    if not q:
        r = subprocess.run([sys.executable, '-W', 'ignore', '-m', 'benchmarks._memory', lib, work],
                           capture_output=True, text=True, cwd=Path(__file__).parents[1],
                           env=dict(os.environ))
        if r.returncode: raise RuntimeError(f'{lib}, {work}: {r.stderr[-2000:]}')
        for k,v in json.loads(r.stdout.splitlines()[-1]).items(): left[lib,work,k].append(v)
    return q.pop()

def topic(work, what, title):
    t = Topic(f'memory-{work}' if what!='imported' else 'memory-import', title, unit='MB', seconds=0, least=3)
    for lib,kw in dict(bare=dict(role='bare'), coursekit=dict(faster=1), fastai=dict(role='fastai')).items():
        t.run({'bare':'bare PyTorch loop'}.get(lib, lib), **kw)(lambda lib=lib: measured(lib, work, what))
    return t

WORK = dict(linear='linear, 12,396 × 784', resnet18='resnet18, 12 batches of 64 × 3 × 28 × 28, Adam')
TOPICS = {**{f'memory-{w}': lambda w=w,
             s=s: topic(w, 'peak', f'the most memory that a process had: import, and an epoch of {s}') for w,
             s in WORK.items()},
          **{f'memory-{w}-training': lambda w=w,
             s=s: _named(topic(w, 'added', f'how much of it came with the training: {s}'),
                         f'memory-{w}-training') for w,s in WORK.items()},
          'memory-import': lambda: topic('linear', 'imported',
                                         'how much the import takes; bare imports torch, torchvision, '
                                         'matplotlib, pandas, fastcore')}

def _named(t, name):
    t.name = name
    return t
