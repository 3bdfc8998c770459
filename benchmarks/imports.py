"""How long the one import takes: fresh interpreters, in turns."""
import os, subprocess, sys
from .harness import Topic

BARE = 'import torch, torchvision, matplotlib, pandas, fastcore'
def fresh(code):
    def f():
        subprocess.run([sys.executable, '-c', code], check=True, capture_output=True,
                       env={**os.environ, 'MPLBACKEND':'agg'})
    return f

def topic():
    t = Topic('import', f'a fresh Python each time; bare is `{BARE}`', seconds=120)
    def add(name, code, **kw): t.run(name, **kw)(fresh(code))
    add('bare', BARE, role='bare')
    add('bare and scikit-learn', f'{BARE}, sklearn.metrics')
    add('coursekit.vision.all', 'from coursekit.vision.all import *', at_most=1)
    add('coursekit.vision.all, torchvision', 'from coursekit.vision.all import *; import torchvision')
    add('coursekit.vision.all, torchvision, scikit-learn',
        'from coursekit.vision.all import *; import torchvision, sklearn.metrics')
    add('fastai.vision.all', 'from fastai.vision.all import *', role='fastai')
    return t

TOPICS = {'import': topic}
