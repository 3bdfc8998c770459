"""Run the benchmarks: `make bench`, or `python -m benchmarks [topic ...]`."""
import argparse, importlib, pkgutil, sys, warnings
from pathlib import Path
from . import harness

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
    import torch
    if a.threads: torch.set_num_threads(a.threads)
    warnings.simplefilter('ignore')                    # what fastai says about its own age
    print(harness.machine(), flush=True)
    done,busy = [],harness.busy()
    if busy: print(busy, flush=True)
    for name,m in chosen:
        try:
            t = m.TOPICS[name]()
        except harness.NotHere as e:
            print(f'{name}: skipped, {e}', flush=True)
            continue
        print(f'measuring {t.name}: {t.title} …', file=sys.stderr, flush=True)
        done.append((t, harness.measure(t, a.seconds, a.rounds)))
    if not done: return 0
    print('\n'+harness.table(done))
    met,n = harness.goals(done)
    print(f'{met} of {n} goals met. A ratio is the median over rounds, each round compared with itself; in '
          'brackets the middle half.' if n else '')
    if busy: print(busy)

if __name__ == '__main__': sys.exit(main())
