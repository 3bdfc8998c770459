"fastai's names: each is here, or in the table of what is left out on purpose; and their friends come along"
import importlib, subprocess, sys
from pathlib import Path
import pytest
import coursekit.vision.all as V
from coursekit.left_out import elsewhere, left_out, left_out_modules, table_rows, why_left_out

# Written by benchmarks/_fastai_names.py
NAMES = (Path(__file__).parent/'fastai_names.txt').read_text().split()

def test_each_name_is_here_or_in_the_table():
    missing = [nm for nm in NAMES if nm not in V.__all__ and not why_left_out(nm)]
    assert not missing, f'fastai.vision.all has these: {missing}'

def test_what_is_in_the_table_is_not_here():
    for names,why,use in table_rows(left_out):
        here = [nm for nm in names.split() if hasattr(V, nm)]
        assert not here, f'these are here, so take them out of the table: {here}'
        assert why and use

@pytest.mark.parametrize('module', ['vision.all','basics','data.all','callback.all'])
def test_who_asks_is_told(module):
    with pytest.raises(ImportError, match='on purpose: for language models'):
        exec(f'from coursekit.{module} import RNNCallback')
    m = importlib.import_module(f'coursekit.{module}')
    with pytest.raises(AttributeError, match='on purpose: for language models'): m.RNNCallback
    with pytest.raises(AttributeError, match='has no attribute'): m.no_such_name
    with pytest.raises(ImportError, match='cannot import name'):
        exec(f'from coursekit.{module} import no_such_name')
    assert not hasattr(m, 'RNNCallback')
    name = next(o for o in m.__all__ if len(o)>8)
    with pytest.raises(ImportError, match=f'mean `{name}`'): exec(f'from coursekit.{module} import {name}x')

def test_modules_that_are_left_out_say_so():
    for names,_,_ in table_rows(left_out_modules):
        for nm in names.split():
            with pytest.raises(ModuleNotFoundError, match='on purpose'):
                importlib.import_module(f'coursekit.{nm}')

def test_the_star_import_brings_no_heavy_friends():
    code = '''import sys
from coursekit.vision.all import *
heavy = {"torchvision","scipy","sklearn","requests","yaml","ipywidgets","accelerate"} & {*sys.modules}
assert not heavy, heavy
assert ndimage.median_filter(array([1,9,1]), 3).tolist()==[1,1,1]
'''
    subprocess.run([sys.executable, '-c', code], check=True)

def test_names_that_stand_elsewhere_are_found():
    for place,home,names in table_rows(elsewhere):
        m,there = (importlib.import_module(f'coursekit.{o}') for o in (place, home))
        for nm in names.split(): assert getattr(m, nm) is getattr(there, nm), (place, nm)
        assert not hasattr(m, 'no_such_name')
        exec(f'from coursekit.{place} import *', brought := {})
        assert {*names.split()} <= {*brought}, f'{place}: what others get by the star'
