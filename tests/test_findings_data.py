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

# ---- splitters

@pytest.fixture
def table(folder):
    df = pd.DataFrame({'name':[f.name for f in get_image_files(folder)]})
    df['label'] = df.name.str.split('_').str[0]
    return df

def from_df(df, folder, **k): return ImageDataLoaders.from_df(df, folder, **{**dict(item_tfms=Resize(16), bs=4, seed=1, num_workers=0, device='cpu'), **k})

def test_advice_about_a_validation_column_is_right(folder, table):
    said = ['True','False','False','False']*5
    with pytest.raises(ValueError, match="on='True'") as e: from_df(table.assign(v=said), folder, valid_col='v')
    assert "df['v'] = df['v']=='True'" in str(e.value)
    a,b = ColSplitter('v', on='True')(table.assign(v=said)); assert (len(a),len(b))==(15,5)
    with pytest.raises(ValueError, match='empty in 1 rows, first in row 3'): from_df(table.assign(v=[True]*3+[np.nan]+[False]*16), folder, valid_col='v')

def test_shares():
    with pytest.raises(TypeError, match='must be a number'): RandomSplitter('0.2')
    with pytest.raises(ValueError, match='from 0 to 1$|from 0 to 1[.]$'): RandomSplitter(-0.1)
