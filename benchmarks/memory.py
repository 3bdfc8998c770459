<<<<<<< HEAD
"""How much memory a process needs at its peak: fresh interpreters import a library and train one epoch."""
import json, subprocess, sys
=======
"How much memory a process needs at its peak: fresh interpreters import a library and train one epoch."
import json, os, subprocess, sys
>>>>>>> main
from collections import defaultdict
from pathlib import Path
from .harness import Topic

left = defaultdict(list)      # each process measures three things, for three topics

def measured(lib, work, what): # MB
    q = left[lib,work,what]
    if not q:
<<<<<<< HEAD
        cmd = [sys.executable, '-W', 'ignore', '-m', 'benchmarks._memory', lib, work]
        r = subprocess.run(cmd, capture_output=True, text=True, cwd=Path(__file__).parents[1])
=======
        r = subprocess.run([sys.executable, '-W', 'ignore', '-m', 'benchmarks._memory', lib, work],
                           capture_output=True, text=True, cwd=Path(__file__).parents[1],
                           env=dict(os.environ))
>>>>>>> main
        if r.returncode: raise RuntimeError(f'{lib}, {work}: {r.stderr[-2000:]}')
        for k,v in json.loads(r.stdout.splitlines()[-1]).items(): left[lib,work,k].append(v)
    return q.pop()

def topic(name, work, what, title):
    t = Topic(name, title, unit='MB', seconds=0, least=3)
    for lib,kw in dict(bare=dict(role='bare'), coursekit=dict(faster=1), fastai=dict(role='fastai')).items():
        t.run({'bare':'bare PyTorch loop'}.get(lib, lib), **kw)(lambda lib=lib: measured(lib, work, what))
    return t

<<<<<<< HEAD
def peak(name, work, what):
    return topic(name, work, 'peak', f'the most memory that a process had: import, and an epoch of {what}')

def training(name, work, what):
    return topic(name, work, 'added', f'how much of it came with the training: {what}')

LINEAR   = 'linear','linear, 12,396 × 784'
RESNET18 = 'resnet18','resnet18, 12 batches of 64 × 3 × 28 × 28, Adam'
IMPORT   = 'how much the import takes; bare imports torch, torchvision, matplotlib, pandas, fastcore'
TOPICS = {'memory-linear':            lambda: peak('memory-linear', *LINEAR),
          'memory-resnet18':          lambda: peak('memory-resnet18', *RESNET18),
          'memory-linear-training':   lambda: training('memory-linear-training', *LINEAR),
          'memory-resnet18-training': lambda: training('memory-resnet18-training', *RESNET18),
          'memory-import':            lambda: topic('memory-import', 'linear', 'imported', IMPORT)}
=======
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
>>>>>>> main
