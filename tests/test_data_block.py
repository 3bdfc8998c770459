"""What a practitioner does with data and gets wrong: tables and files, new items of other kinds, forgotten brackets, missing labels, misspelt arguments."""
import inspect
import matplotlib; matplotlib.use('Agg')
import numpy as np, pandas as pd, pytest, torch
from PIL import Image
from coursekit.errors import full_message
from coursekit.vision.all import *
for _n in [n for n in globals() if n.startswith('test') and n!='test_set']: del globals()[_n]   # fastcore's own, which pytest would collect
make_test_set = globals().pop('test_set')

REGEX = using_attr(RegexLabeller(r'(.+)_\d+.jpg$'), 'name')

@pytest.fixture
def table(folder):
    df = pd.DataFrame({'name':[f.name for f in get_image_files(folder)]})
    df['label'] = df.name.str.split('_').str[0]
    df['size']  = np.where(np.arange(20)%3==0, 'big', 'small')
    df['is_valid'] = np.arange(20)%5==0
    return df

kw = dict(item_tfms=Resize(16), bs=4, seed=1, num_workers=0, device='cpu')
def block(**k): return DataBlock(**{**dict(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files, get_y=REGEX, item_tfms=Resize(16), splitter=RandomSplitter(seed=1)), **k})
def small_net(n=2): return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12,n))

# 1: whatever the data was made from, a new item may be a path, a text, bytes, a picture, an array
@pytest.mark.parametrize('made', ['df','csv','lists','name_func','block'])
def test_new_items_of_every_kind(folder, table, made):
    fs = get_image_files(folder)
    table.to_csv(folder/'labels.csv', index=False)
    I = ImageDataLoaders
    dls = {'df': lambda: I.from_df(table, folder, **kw), 'csv': lambda: I.from_csv(folder, **kw), 'lists': lambda: I.from_lists(folder, fs, list(table.label), **kw),
           'name_func': lambda: I.from_name_func(folder, fs, lambda n: n[:3], **kw), 'block': lambda: block().dataloaders(folder, bs=4, num_workers=0, device='cpu')}[made]()
    learn = Learner(dls, small_net())
    f = fs[3]
    want = dls.test_dl([f]).one_batch()[0]
    opened = Image.open(f).convert('RGB')
    px = dls.test_dl([opened]).one_batch()[0].as_subclass(Tensor)
    assert (px-want.as_subclass(Tensor)).abs().mean()<0.1     # a file is decoded only as finely as needed, so it is not the same to the last bit
    for o in str(f), f.read_bytes(): assert torch.equal(dls.test_dl([o]).one_batch()[0], want), type(o)
    for o in np.array(opened), PILImage.create(opened): assert torch.equal(dls.test_dl([o]).one_batch()[0].as_subclass(Tensor), px), type(o)
    with learn.no_bar(), learn.no_logging(): assert learn.predict(f)[0] in ('cat','dog') and learn.predict(PILImage.create(opened))[0] in ('cat','dog') and learn.predict(str(f))[0]==learn.predict(f)[0]
    assert dls.test_dl(fs).one_batch()[0].shape[0]==4

def test_rows_are_new_items_of_a_table_too(folder, table):
    dls = ImageDataLoaders.from_df(table, folder, **kw)
    x,y = dls.test_dl(table[:4], with_labels=True).one_batch()
    assert x.shape[0]==4 and [dls.vocab[i] for i in y]==list(table.label[:4])
    assert torch.equal(dls.test_dl(table[:4]).one_batch()[0], x)

def test_empty_loaders_still_know_what_they_take(folder, table):
    dls = ImageDataLoaders.from_df(table, folder, **kw)
    f = get_image_files(folder)[0]
    assert torch.equal(dls.new_empty().test_dl([f]).one_batch()[0], dls.test_dl([f]).one_batch()[0])

# parameters that were ignored
def test_rm_tfms(folder):
    ds = block().datasets(folder)
    assert make_test_set(ds, [ds[0][0]], rm_tfms=1)[0][0] is not None and make_test_set(ds, [7], 1)[0]==(7,)
    dls = block().dataloaders(folder, num_workers=0)
    im = PILImage.create(get_image_files(folder)[0])
    assert torch.equal(dls.test_dl([im], rm_type_tfms=1).one_batch()[0], dls.test_dl([im]).one_batch()[0])
    with pytest.raises(Exception): dls.test_dl([get_image_files(folder)[0]], rm_type_tfms=1).one_batch()

def test_use_list_and_types():
    assert TfmdLists(np.arange(3), noop, use_list=True).items==[0,1,2] and isinstance(TfmdLists(np.arange(3), noop).items, np.ndarray)
    tl = TfmdLists([1,2], [str, len], types=[int,str,int])
    assert (tl.infer_idx('x'), tl.infer_idx(3), tl.types)==(1,0,[int,str,int]) and TfmdLists([1], [str]).types==[int,str]

def test_overlap(): assert TfmdLists(range(3), noop, splits=([0,1],[1,2])).overlapping_splits()==[1]

# 7: brackets
def test_forgotten_brackets(folder):
    with pytest.raises(TypeError, match=r'batch_tfms=aug_transforms\(\)'): block(batch_tfms=aug_transforms)
    with pytest.raises(TypeError, match=r'item_tfms=Resize\(size=…\)'): block(item_tfms=Resize)
    with pytest.raises(TypeError, match=r'batch_tfms=aug_transforms\(\)'): ImageDataLoaders.from_name_func(folder, get_image_files(folder), str.upper, batch_tfms=aug_transforms, **kw)
    with pytest.raises(TypeError, match=r'splitter=RandomSplitter\(\)'): block(splitter=RandomSplitter).dataloaders(folder)
    assert any(isinstance(f, Flip) for f in block(batch_tfms=Flip).batch_tfms), 'a class that needs nothing is called'

# 9: several label columns
def test_several_label_columns(folder, table):
    dls = ImageDataLoaders.from_df(table, folder, label_col=['label','size'], **kw)
    assert dls.vocab==['big','cat','dog','small'] and dls.one_batch()[1].shape==(4,4) and (dls.one_batch()[1].sum(1)==2).all()
    table['cat'],table['dog'] = (table.label=='cat').astype(int),(table.label=='dog').astype(int)
    dls = ImageDataLoaders.from_df(table, folder, label_col=['cat','dog'], **kw)
    assert dls.vocab==['cat','dog'] and (dls.one_batch()[1].sum(1)==1).all()
    dls.show_batch(); plt.close('all')

def test_tuples_of_labels_are_one_target(folder):
    dls = block(blocks=(ImageBlock, MultiCategoryBlock), get_y=lambda f: (REGEX(f), 'pet')).dataloaders(folder, bs=4, num_workers=0)
    assert dls.vocab==['cat','dog','pet'] and dls.one_batch()[1].shape==(4,3)
    dls = block(blocks=(ImageBlock, RegressionBlock), get_y=lambda f: (1.,2.)).dataloaders(folder, bs=4, num_workers=0)
    assert dls.c==2 and dls.one_batch()[1].shape==(4,2)

# 14: no label
@pytest.mark.parametrize('empty', [None, float('nan')])
@pytest.mark.parametrize('row', [7, 10])     # one in training, one in validation
def test_row_without_a_label(folder, table, empty, row):
    table.loc[row,'label'] = empty
    with pytest.raises(ValueError, match='no label') as e: ImageDataLoaders.from_df(table, folder, valid_col='is_valid', **{k:v for k,v in kw.items() if k!='seed'})
    assert f'ow {row}' in str(e.value) and 'dropna' in str(e.value)

def test_row_without_tags_or_number(folder, table):
    table.loc[3,'size'] = None
    with pytest.raises(ValueError, match='Row 3 of the table has no label'): ImageDataLoaders.from_df(table, folder, label_col='size', label_delim=' ', valid_col='is_valid', item_tfms=Resize(16))
    table['age'] = np.arange(20.); table.loc[3,'age'] = np.nan
    with pytest.raises(ValueError, match='Row 3 of the table has no label'): ImageDataLoaders.from_df(table, folder, label_col='age', y_block=RegressionBlock, valid_col='is_valid', item_tfms=Resize(16))

# 15: a folder of folders without train and valid
def test_no_train_and_valid(folder):
    for f in get_image_files(folder): (folder/REGEX(f)).mkdir(exist_ok=True); f.rename(folder/REGEX(f)/f.name)
    with pytest.raises(ValueError, match='valid_pct=0.2') as e: ImageDataLoaders.from_folder(folder, item_tfms=Resize(16))
    assert '20 pictures are in 2 folders (cat, dog)' in str(e.value)
    assert ImageDataLoaders.from_folder(folder, valid_pct=0.2, **kw).vocab==['cat','dog']

# 16, 17: names of arguments
def test_misspelt_arguments(folder):
    fs = get_image_files(folder)
    with pytest.raises(TypeError, match='did you mean `item_tfms`'): ImageDataLoaders.from_name_func(folder, fs, lambda n: n[:3], item_tfm=Resize(16))
    with pytest.raises(TypeError, match='item_tfms` belongs to DataBlock'): block().dataloaders(folder, item_tfms=Resize(16))
    with pytest.raises(TypeError, match='did you mean `num_workers`'): block().dataloaders(folder, num_worker=0)

@pytest.mark.parametrize('name', ['from_folder','from_path_func','from_name_func','from_path_re','from_name_re','from_df','from_csv','from_lists'])
def test_signatures_say_what_there_is(name):
    ps = inspect.signature(getattr(ImageDataLoaders, name)).parameters
    assert {'valid_pct','seed','item_tfms','batch_tfms','img_cls','bs','val_bs','shuffle','device','num_workers'} <= ps.keys(), ps

# 20, 21: errors keep their type and name the item
def test_missing_file(folder):
    learn = Learner(block().dataloaders(folder, bs=4, num_workers=0), small_net())
    with learn.no_bar(), learn.no_logging(), pytest.raises(FileNotFoundError, match='missing.jpg') as e: learn.predict('missing.jpg')
    assert 'DataLoader: item 0 (' in full_message(e.value)
    with learn.no_bar(), learn.no_logging(), pytest.raises(FileNotFoundError, match='missing.jpg'):
        learn.get_preds(dl=learn.dls.test_dl(['missing.jpg'], num_workers=1))

def test_label_function_that_fails(folder):
    with pytest.raises(IndexError, match=r'_\d+.jpg.*IndexError') as e: ImageDataLoaders.from_path_func(folder, get_image_files(folder), lambda p: p.name.split('_')[9], **kw)
    (folder/'odd.jpg').write_bytes((folder/'cat_0.jpg').read_bytes())
    with pytest.raises(IndexError, match='odd.jpg'): block(get_y=lambda p: (p.name[:3],p.name.split('_')[1])[0], splitter=EndSplitter(0.1)).dataloaders(folder)
    with pytest.raises(IndexError, match='Validation.*odd.jpg'): block(get_y=lambda p: ('x','y')['_' not in p.name and 2], splitter=EndSplitter(0.1)).dataloaders(folder)

# 22: swapped sources, generators
def test_swapped_sources(folder):
    with pytest.raises(TypeError, match='get_image_files'): ImageDataLoaders.from_path_func(str(folder), str(folder), REGEX)
    with pytest.raises(ValueError, match='get_items=get_image_files'): block(get_items=None).dataloaders(folder)
    with pytest.raises(TypeError, match='looks into a folder'): block().dataloaders(get_image_files(folder))

def test_generator_of_files(folder):
    dls = ImageDataLoaders.from_name_func(folder, folder.glob('*.jpg'), lambda n: n[:3], **kw)
    assert len(dls.train_ds)+len(dls.valid_ds)==20
    assert len(block(get_items=lambda p: p.glob('*.jpg')).datasets(folder))==20

# 24: get_y
def test_forgotten_get_y(folder):
    with pytest.raises(ValueError, match='file paths themselves.*did you forget `get_y`'): block(get_y=None).dataloaders(folder)

# 26: what is a validation column, what is a share
def test_validation_column_of_words(folder, table):
    table['part'] = np.where(table.is_valid, 'valid', 'train')
    with pytest.raises(ValueError, match='must hold true and false') as e: ImageDataLoaders.from_df(table, folder, valid_col='part', item_tfms=Resize(16))
    assert 'on=' in str(e.value)
    assert len(block(get_items=None, get_x=ColReader('name', pref=folder), get_y=ColReader('label'), splitter=ColSplitter('part', on='valid')).datasets(table).valid)==4

def test_percent(folder):
    with pytest.raises(ValueError, match='for 20 per cent write 0.2'): ImageDataLoaders.from_name_func(folder, get_image_files(folder), str.upper, valid_pct=20)

# 30: reprs
def test_reprs(folder):
    b = block()
    assert 'train: 16 items in 4 batches of 4, valid: 4 items in 1 batches of 4, 2 classes: cat, dog' in repr(b.dataloaders(folder, bs=4))
    for word in 'get_image_files','RandomSplitter','Categorize','Resize','input','target': assert word in repr(b), repr(b)

# summary: which step, on what, with which shapes, what helps
def test_summary_of_a_recipe_that_works(folder, capsys):
    block(batch_tfms=aug_transforms(size=8)).summary(folder, show_batch=True); plt.close('all')
    out = capsys.readouterr().out
    for word in '20 items','.jpg','PILImage of size','TensorCategory','(4, 3, 16, 16), uint8','(4, 3, 8, 8), float32','All steps work': assert word in out, (word, out)

class Bad(Transform):
    order = 30
    def encodes(self, o:TensorImage): return o @ torch.ones(5)

@pytest.mark.parametrize('change,where,given,helps', [
    (dict(get_y=using_attr(RegexLabeller(r'x(\d+)'), 'name')), 'target', '.jpg', 're.search'),
    (dict(get_x=lambda p: p.parent/'no'/p.name),               'input',  '.jpg', 'get_x'),
    (dict(item_tfms=None),                                     'stacking', 'shape', 'Resize(224)'),
    (dict(batch_tfms=Bad()),                                   'batch transform `Bad`', '(4, 3, 16, 16)', 'batch axis'),
    (dict(item_tfms=[Resize(16), Bad()]),                      'item transform `Bad`', '(3, 16, 16)', 'one item'),
    (dict(get_items=lambda p: 1/0),                            'get_items', 'Path', 'alone'),
    (dict(splitter=lambda o: 1/0),                             'splitter', 'cat_', 'two lists')])
def test_summary_names_the_step(folder, capsys, change, where, given, helps):
    with pytest.raises(Exception) as e: block(**change).summary(folder)
    out = capsys.readouterr().out
    for text in (str(e.value), out): assert where in text and helps in text and given in text, (text, out)
    assert '✗' in out

def test_summary_of_tables(folder, table, capsys):
    block(get_items=None, get_x=ColReader('name', pref=folder), get_y=ColReader('label')).summary(table)
    assert 'All steps work' in capsys.readouterr().out
