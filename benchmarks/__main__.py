"""Run the benchmarks: `make bench`, or `python -m benchmarks [topic ...]`."""
import argparse, importlib, pkgutil, sys, warnings
from pathlib import Path
from . import harness

<<<<<<< HEAD
ABOUT = 'coursekit, fastai and a bare PyTorch loop side by side: medians, and ratios inside each round.'
NO_FASTAI = ('fastai is not installed here. `make bench` sets up everything; by hand:  '
             'pip install -e .[dev,bench] -c constraints.txt')
READ_AS = 'A ratio is the median over rounds, each round compared with itself; in brackets the middle half.'

def files():
    names = (m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return sorted(n for n in names if n not in ('harness','work') and not n.startswith('_'))

def arguments():
    p = argparse.ArgumentParser(prog='make bench ARGS="…"', description=ABOUT)
    p.add_argument('names', nargs='*', help='only topics whose name starts so (default: all)')
    p.add_argument('--list', action='store_true', help='list the topics')
    p.add_argument('--seconds', type=float, help='for the rounds of one topic')
    p.add_argument('--rounds', type=int, help='exactly so many')
    p.add_argument('--threads', type=int, help='of torch (default: its own choice)')
    return p.parse_args()

def main():
    a = arguments()
    if harness.installed('fastai')=='not installed': sys.exit(NO_FASTAI)
    topics = {}
    for name in files(): topics |= importlib.import_module(f'benchmarks.{name}').TOPICS
    chosen = [n for n in topics if not a.names or n.startswith(tuple(a.names))]
    if a.list:
        print('\n'.join(topics))
        return 0
    if not chosen: sys.exit(f'No topic starts with {" or ".join(a.names)}. There are: {", ".join(topics)}')
=======
def files():
    return sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)])
                  if m.name not in ('harness','work') and not m.name.startswith('_'))

def main():
    p = argparse.ArgumentParser(prog='make bench ARGS="…"',
                                description='coursekit, fastai and a bare PyTorch loop side by side: '
                                            'medians, and ratios inside each round.')
    p.add_argument('names', nargs='*', help='only topics whose name starts so (default: all)')
    p.add_argument('--list', action='store_true', help='list the topics')
    p.add_argument('--seconds', type=float, help='for the rounds of one topic')
    p.add_argument('--rounds', type=int, help='exactly so many')
    p.add_argument('--threads', type=int, help='of torch (default: its own choice)')
    a = p.parse_args()
    if harness.installed('fastai')=='not installed':
        sys.exit('fastai is not installed here. `make bench` sets up everything; by hand:  pip install -e '
                 '.[dev,bench] -c constraints.txt')
    mods = {n: importlib.import_module(f'benchmarks.{n}') for n in files()}
    all = [(n, m) for m in mods.values() for n in m.TOPICS]
    chosen = [(n, m) for n,m in all if not a.names or any(n.startswith(s) for s in a.names)]
    if a.list:
        print('\n'.join(n for n,_ in all))
        return 0
    if not chosen:
        sys.exit(f'No topic starts with {" or ".join(a.names)}. There are: {", ".join(n for n,_ in all)}')
>>>>>>> main
    import torch
    if a.threads: torch.set_num_threads(a.threads)
    warnings.simplefilter('ignore')                    # what fastai says about its own age
    print(harness.machine(), flush=True)
    done,busy = [],harness.busy()
    if busy: print(busy, flush=True)
<<<<<<< HEAD
    for name in chosen:
        t = topics[name]()
=======
    for name,m in chosen:
        t = m.TOPICS[name]()
>>>>>>> main
        print(f'measuring {t.name}: {t.title} …', file=sys.stderr, flush=True)
        done.append((t, harness.measure(t, a.seconds, a.rounds)))
    print('\n'+harness.table(done))
    met,n = harness.goals(done)
<<<<<<< HEAD
    if n: print(f'{met} of {n} goals met. {READ_AS}')
=======
    print(f'{met} of {n} goals met. A ratio is the median over rounds, each round compared with itself; in '
          'brackets the middle half.' if n else '')
>>>>>>> main
    if busy: print(busy)

if __name__ == '__main__': sys.exit(main())
