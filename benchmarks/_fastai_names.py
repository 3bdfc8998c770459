"""Writes tests/fastai_names.txt: the names that `from fastai.vision.all import *` brings.

    python -m benchmarks._fastai_names
"""
from pathlib import Path

def main():
    names = {}
    exec('from fastai.vision.all import *', names)
    names = sorted(nm for nm in names if not nm.startswith('_'))
    (Path(__file__).parent.parent/'tests'/'fastai_names.txt').write_text('\n'.join(names)+'\n')

if __name__=='__main__': main()
