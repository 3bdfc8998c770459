"""Measure contestants side by side: in one process, in turns, many rounds; compare each round with itself.

A machine drifts (other programs, heat), and it drifts for all contestants of a round alike. So the ratio of
two contestants is taken inside each round, and the median of these ratios is reported, with the middle half
of them as the spread.
"""
import gc, os, platform, time
from importlib.metadata import version, PackageNotFoundError
from statistics import median

class NotHere(Exception):
    "A topic raises it if this machine lacks what it measures; the text says what"

class Contestant:
    "One way to do the work; `f` does it once and may return a result, to be compared with the others"
    def __init__(self, name, f, role, at_most, faster, below):
        self.name,self.f,self.role = name,f,role
        self.at_most,self.faster,self.below,self.times = at_most,faster,below,[]

class Topic:
    """One piece of work and those who do it. Roles: 'bare' and 'fastai' are what the others are compared
    with, at most one of each"""
    def __init__(self, name, title, seconds=10, # A fair time for its rounds
                 least=7,                       # At least so many rounds
                 unit='s',                      # Of time; else ('µs', 'MB') of what the functions return
                 once=False):                   # No round to warm up, and only one round?
        self.name,self.title,self.seconds,self.least,self.unit,self.once = name,title,seconds,least,unit,once
        self.cs,self.check = [],None

    def run(self, name, role=None, # 'bare' or 'fastai'
            at_most=None, faster=None, below=None): # Goals: times bare; times better than fastai; so much
        "Decorator: the function is a contestant"
        def f(fn):
            self.cs.append(Contestant(name, fn, role, at_most, faster, below))
            return fn
        return f
    def same(self, fn):
        "Decorator: `fn` gets {name: result} of the warming-up round, and asserts that all did the same work"
        self.check = fn
        return fn
    def role(self, role): return next((c for c in self.cs if c.role==role), None)

def agreement(name, title, # As for `Topic`
              eps, # Largest difference allowed: of a number itself, if it is above 1
              ours, theirs, # Functions without arguments that give {what: array}, of coursekit and of fastai
              seconds=3):
    "A topic that stops if two results differ, and says by how much they do"
    import numpy as np
    t = Topic(name, title, seconds=seconds)
    t.run('coursekit')(ours)
    t.run('fastai', role='fastai')(theirs)
    @t.same
    def _(results):
        a,b = results['coursekit'],results['fastai']
        assert a.keys()==b.keys(), a.keys()^b.keys()
        for k in b: assert a[k].shape==b[k].shape, f'{k}: {a[k].shape}, fastai {b[k].shape}'
        gaps = {k:float((np.abs(a[k]-b[k])/np.maximum(1, np.abs(b[k]))).max()) for k in b}
        worst = max(gaps, key=gaps.get)
        assert gaps[worst]<=eps, f'{worst} differs from fastai by {gaps[worst]:.1e}'
        print(f'{name}: {sum(o.size for o in b.values()):,} numbers of {len(b)} kinds; the largest '
              f'difference from fastai is {gaps[worst]:.1e} ({worst})')
    return t

def clock(f):
    gc.collect()
    t = time.perf_counter()
    res = f()
    return time.perf_counter()-t,res

def measure(topic, seconds=None, rounds=None, most=100): # Rounds that were run
    "Warm up, then run rounds for about `seconds`; each round starts with another contestant"
    if topic.once: return _once(topic)
    first = {c.name: c.f() for c in topic.cs}
    if topic.check: topic.check(first)
    gc.collect()
    gc.freeze()           # what was there before is no business of the garbage collector while the clock runs
    n,end = 0,time.perf_counter()+(seconds or topic.seconds)
    while n<rounds if rounds else n<topic.least or n<most and time.perf_counter()<end:
        k = n%len(topic.cs)
        n += 1
        for c in topic.cs[k:]+topic.cs[:k]: c.times.append(clock(c.f)[topic.unit!='s'])
    gc.unfreeze()
    return n

def _once(topic):
    res = {c.name: clock(c.f) for c in topic.cs}
    for c,o in zip(topic.cs, res.values()): c.times.append(o[topic.unit!='s'])
    if topic.check: topic.check({k:o[1] for k,o in res.items()})
    return 1

def quartiles(xs):
    xs = sorted(xs)
    at = lambda q: xs[int(q*(len(xs)-1)+.5)]
    return at(.25),median(xs),at(.75)
def ratios(a, b): return quartiles([x/y for x,y in zip(a.times, b.times)])

def text(v, unit):
    if unit=='s': return f'{v:.2f} s' if v>=1 else f'{v*1e3:.{1 if v<.1 else 0}f} ms'
    return f'{v:.{0 if v>=100 else 1 if v>=10 else 2}f} {unit}'
def ratio_text(q): return f'{q[1]:.2f} ({q[0]:.2f}–{q[2]:.2f})'
def verdict(goal, met): return f'{goal} {"met" if met else "MISSED"}'

def rows(topic): # Lists of six texts
    "One row for each contestant"
    bare,fast = topic.role('bare'),topic.role('fastai')
    for c in topic.cs:
        lo,mid,hi = quartiles(c.times)
        b = f = gb = gf = ''
        put = lambda v: text(v, topic.unit)
        if c.below is not None: gb = verdict(f'≤ {c.below:g} {topic.unit}', mid<=c.below)
        if bare and c is not bare:
            q = ratios(c, bare)
            b = ratio_text(q)
            gb = gb if c.at_most is None else verdict(f'≤ {c.at_most:g}', q[1]<=c.at_most)
        if fast and c is not fast:
            q = ratios(fast, c)
            f = ratio_text(q)
            gf = '' if c.faster is None else verdict(f'≥ {c.faster:g}', q[1]>=c.faster)
        yield [c.name, put(mid), '' if len(c.times)==1 else f'{put(lo)} – {put(hi)}', b, gb, f, gf]

HEAD = ['', 'median', 'middle half', '× bare', 'goal', '× better than fastai', 'goal']
def table(measured): # Text; `measured`: pairs of topic and rounds
    "All topics in one table"
    lines = [(None,HEAD)]
    for t,n in measured:
        lines += [(f'{t.name}: {t.title} ({n} round{"s" if n>1 else ""})',None),
                  *((None,['  '+r[0],*r[1:]]) for r in rows(t))]
    cells = [r for _,r in lines if r]
    ws = [max(len(r[i]) for r in cells) for i in range(len(HEAD))]
    put = lambda r: '  '.join(s.ljust(w) if i==0 else s.rjust(w) for i,
                              (s,w) in enumerate(zip(r, ws))).rstrip()
    rule = '─'*(sum(ws)+2*len(ws)-2)
    return '\n'.join([put(HEAD), *(put(r) if r else f'{rule}\n{head}' for head,r in lines[1:]), rule])

def goals(measured): # (met, all)
    texts = [s for t,_ in measured for r in rows(t) for s in (r[4],r[6]) if s]
    return sum(s.endswith('met') for s in texts),len(texts)

def cores(): return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
def processor():
    try: return next(l.split(':')[1].strip() for l in open('/proc/cpuinfo') if l.startswith('model name'))
    except (OSError, StopIteration): return platform.processor() or platform.machine()
def installed(name):
    try: return version(name)
    except PackageNotFoundError: return 'not installed'

def busy(): # A sentence, or ''
    "Is there other work? To be asked before measuring"
    load = os.getloadavg()[0] if hasattr(os, 'getloadavg') else 0
    if load<=.6*cores(): return ''
    return (f'This machine is busy (load average {load:.1f} on {cores()} cores): ratios are not to be '
            'trusted, and goals may be missed or met by accident. `--threads 1` is steadier.')

def machine(): # Text
    "What was measured where"
    import torch
    busy = f'load average {os.getloadavg()[0]:.1f}' if hasattr(os, 'getloadavg') else ''
    vs = ' · '.join(f'{p} {installed(p)}' for p in ('coursekit','fastai','torch','torchvision','fastcore'))
    return (f'{processor()}, {cores()} cores ({busy}), {torch.get_num_threads()} threads in torch\n'
            f'{platform.system()} · Python {platform.python_version()} · {vs}')
