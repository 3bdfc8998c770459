"What an adversary found on the data side: each finding stays found"
import matplotlib; matplotlib.use('Agg')
import numpy as np, pandas as pd, pytest, torch
from coursekit.vision.all import *
for _n in [n for n in globals() if n.startswith('test')]: del globals()[_n]   # fastcore's own, which pytest would collect

# ---- dispatch

def test_the_first_argument_of_a_method_is_known_by_its_place():
    class AddNoise(Transform):
        def encodes(this, x:TensorImage): return x*0+7
        @staticmethod
        def decodes(x:TensorImage): return x*0
    im,label = TensorImage(torch.ones(3,2,2)),TensorCategory(torch.tensor(1))
    a,b = AddNoise()((im,label)); assert a.unique().item()==7 and b.item()==1 and type(a) is TensorImage
    a,b = AddNoise().decode((im,label)); assert a.unique().item()==0 and b.item()==1
    class Plain:
        def encodes(me, x:str): return x+'!'
    class Both(AddNoise, Plain): pass
    assert Both()(('a',3))==('a!',3)
    @Both
    def encodes(tfm, x:int): return x+1
    assert Both()(('a',3))==('a!',4)
    assert Transform(lambda self: self+1)(1)==2, 'a function, whatever it calls its argument'
