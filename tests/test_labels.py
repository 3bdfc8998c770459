"Labels, names, lists and tables as people bring them: kept and shown, or refused, never silently changed"
import enum, io, unicodedata, warnings
import matplotlib
matplotlib.use('Agg')
import numpy as np, pandas as pd, pytest, torch
from coursekit.errors import error_text
from coursekit.vision.all import *
for _n in [n for n in globals() if n.startswith('test')]: del globals()[_n]   # pytest would collect them

kw = dict(item_tfms=Resize(16), bs=4, seed=1, num_workers=0, device='cpu')

@pytest.fixture
def files(folder): return get_image_files(folder)

@pytest.fixture
def table(files):
    columns = {'f': map(str, files), 'label': [o.name[:3] for o in files]}
    return pd.DataFrame(columns, index=range(50, 70))

def of_lists(fnames, labels, **changes):
    return ImageDataLoaders.from_lists('.', fnames, labels, **kw | changes)
def of_table(df, **changes):
    return ImageDataLoaders.from_df(df, '/', **dict(fn_col='f') | kw | changes)
def pairs(dls): # File and class name of each item
    ds = [*dls.train_ds.items, *dls.valid_ds.items]
    return sorted((str(f), str(y)) for f,y in ds)

# ---- lists of any kind

LISTS = dict(tuple=tuple, array=lambda o: np.array(o, dtype=object), texts=np.array, L=L,
             bytes=lambda o: np.array(o, dtype='S'), Index=pd.Index, Categorical=pd.Categorical,
             Series=lambda o: pd.Series(o, index=range(len(o),0,-1)),
             iterator=iter, keys=lambda o: dict(enumerate(o)).values())

BY_NAME = DataBlock((ImageBlock,CategoryBlock), get_y=lambda o: Path(o).name[:3], item_tfms=Resize(16))

@pytest.mark.parametrize('kind', LISTS)
def test_files_and_labels_come_in_lists_of_any_kind(files, kind):
    make,fnames = LISTS[kind],[str(o) for o in files]
    labels = [o.name[:3] for o in files]
    assert pairs(of_lists(make(fnames), make(labels)))==sorted(zip(fnames, labels))
    for dls in (ImageDataLoaders.from_path_func('.', make(fnames), lambda o: Path(o).name[:3], **kw),
                ImageDataLoaders.from_name_func('.', make(fnames), lambda o: o[:3], **kw),
                ImageDataLoaders.from_name_re('.', make(fnames), r'(...)_', **kw),
                BY_NAME.dataloaders(make(fnames), bs=4, num_workers=0)):
        assert dls.vocab==['cat','dog'] and len(dls.train_ds)+len(dls.valid_ds)==20
    assert [len(b[0]) for b in dls.test_dl(make(fnames), bs=15)]==[15,5]
    order = ['cat','dog'] if kind=='Categorical' else ['dog','cat']
    assert CategoryBlock(vocab=make(['dog','cat'])).type_tfms[0].vocab==order

def test_numbers_and_lists_as_labels(files):
    assert of_lists(files, np.arange(20)%2).vocab==of_lists(files, torch.arange(20)%2).vocab==[0,1]
    share = np.linspace(0, 1, 20)
    for labels in share, share.astype('f'), torch.tensor(share), pd.Series(share):
        assert of_lists(files, labels).one_batch()[1].dtype==torch.float32
    assert of_lists(files, np.ones((20,2))).one_batch()[1].shape==(4,2)
    both = np.array([['a','b']]*20)
    for labels in both, list(both), both.tolist(), [{'a','b'}]*20, [('a','b')]*20:
        assert of_lists(files, labels).one_batch()[1].tolist()==[[1,1]]*4

def test_what_is_no_list(files):
    assert '20 pictures but 3 labels' in error_text(of_lists, files, np.arange(3))
    assert 'fnames: expected a list, not a dict' in error_text(of_lists, {'a':1}, [1])
    assert 'labels: expected a list' in error_text(of_lists, files, 3)
    assert 'the one text' in error_text(CategoryBlock, vocab='cat')
    assert 'pandas table' in error_text(of_table, pd.Series(['a','b']))

def test_tables_where_lists_are_expected(files):
    labels = pd.DataFrame({'y':[f.name[:3] for f in files]})
    dls = of_lists(pd.DataFrame({'f':map(str, files)}), labels)
    assert pairs(dls)==sorted((str(f), f.name[:3]) for f in files)
    assert IndexSplitter(pd.DataFrame({'i':[5,0]}))(files)[1]==[0,5]
    assert 'is no position' in error_text(lambda: IndexSplitter([[0,5]])(files))

def test_items_of_data_sets():
    column = pd.Series(range(5), index=range(9,4,-1))
    for items in np.arange(5), torch.arange(5), column, (i for i in range(5)), range(5):
        ds = Datasets(items, [[lambda o: int(o)], [lambda o: int(o)%2]], splits=[[0,1,2],[3,4]])
        assert [tuple(o) for o in ds.valid]==[(3,1),(4,0)]
    assert ds[np.array([0,2])]==ds[[True,False,True,False,False]]==ds[torch.tensor([0,2])]==[(0,0),(2,0)]
    assert '2 truth values for 5 items' in error_text(lambda: ds[[True,False]])
    class Lazy:                                    # somebody's data set is not read before it is asked
        asked = 0
        def __len__(self): return 10**9
        def __getitem__(self, i):
            Lazy.asked += 1
            return i
    assert TfmdLists(Lazy(), noop, splits=[[5,6],[10**8]]).valid[0]==10**8 and Lazy.asked==1

@pytest.mark.parametrize('idxs,valid', [
    ([0,5], [0,5]), (np.array([5,0]), [0,5]), (pd.Series([0,5], index=[8,9]), [0,5]),
    (np.arange(20)<2, [0,1]), ([True]*2+[False]*18, [0,1]), ({3}, [3]), ([-1], [19]), ([1,1], [1]),
    (slice(18,20), [18,19]), (torch.tensor([4]), [4]), (iter([4]), [4])])
def test_valid_idx(files, idxs, valid):
    split = IndexSplitter(idxs)
    for _ in range(2): assert split(files)[1]==valid

@pytest.mark.parametrize('idxs,said', [
    ([20], 'no item 20'), ([-21], 'no item -21'), ([True], '1 truth values for 20'),
    ([.5], '0.5 is no position'), (['a'], "'a' is no position"), (5, 'valid_idx: expected a list')])
def test_valid_idx_that_is_none(files, idxs, said):
    assert said in error_text(lambda: IndexSplitter(idxs)(files))

# ---- names of classes

NONE = ['', '  ', '\n', '\u200b', None, float('nan'), np.float32('nan'), pd.NA, pd.NaT]
@pytest.mark.parametrize('label', NONE)
def test_a_label_without_text_is_none(files, label):
    said = error_text(of_lists, files, ['a']*10+[label]*10)
    assert 'no label for item' in said and '.jpg' in said

ALIKE = [('cat','cat '), ('cat','Cat'), ('a b','a\xa0b'), ('a','a\u200b'), (1,'1'),
         (unicodedata.normalize('NFC', 'é'), 'e\u0301')]
@pytest.mark.parametrize('a,b', ALIKE)
def test_labels_that_look_alike_are_kept_with_a_warning(files, a, b):
    with pytest.warns(UserWarning, match='look like another one') as ws: dls = of_lists(files, [a,b]*10)
    assert set(dls.vocab)=={a,b} and sum('look like' in str(w.message) for w in ws)==1
    shown = str(ws[0].message).split('example ')[1]
    assert shown.split(' and ')[0]!=shown.split(' and ')[1].split('. ')[0], 'they can be told apart'

def test_padded_labels_are_kept_with_a_warning(files):
    with pytest.warns(UserWarning, match="blanks around them, for example ' dog'"):
        assert of_lists(files, [' dog','cat']*10).vocab==[' dog','cat']

@pytest.mark.parametrize('names', [
    ['nan','None'], ['#na#','b'], ['$x_1$','$5'], ['a\nb','c\td'], ['x'*5000,'y'*300], ['<script>','{}'],
    ['a\udce4','b'], [True,False], [0,1], [np.str_('a'),np.str_('b')], ['a;b','^']])
def test_odd_labels_are_kept_and_shown(files, names, capsys):
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Glyph')
        dls = of_lists(files, names*10)
        assert set(dls.vocab)==set(names)
        dls.show_batch(max_n=4)
        fig = plt.gcf()
        fig.canvas.draw()
    titles = {ax.get_title() for ax in fig.axes}
    plt.close('all')
    assert titles<={one_line(str(o)) for o in names} and all('\n' not in t and len(t)<130 for t in titles)
    print(dls)

def test_labels_of_an_enum(files):
    Kind = enum.Enum('Kind', 'hen owl')
    assert of_lists(files, [Kind.hen,Kind.owl]*10).vocab==[Kind.hen,Kind.owl]

@pytest.mark.parametrize('label', [['a'], ('a','b'), {'a'}, np.array(['a'])])
def test_lists_where_one_class_is_expected(files, label):
    said = error_text(of_lists, files, [label]*20, y_block=CategoryBlock)
    assert 'MultiCategoryBlock' in said and '.jpg' in said
def test_what_is_no_list_of_labels(files):
    for label in 'cat', 3, {'a':1}:
        said = error_text(of_lists, files, [['a']]+[label]*19, y_block=MultiCategoryBlock)
        assert 'a list of labels for each item' in said and '.jpg' in said
    assert 'no label' in error_text(of_lists, files, [['a','']]*20)
def test_0_and_1_taken_for_names(files):
    with pytest.warns(UserWarning, match='encoded=True'): of_lists(files, [[0,1,0]]*20)

def test_a_vocab_is_looked_at():
    for vocab,said in (([], 'vocab is empty'), (['a',None], 'name without text'),
                       (['a',' '], 'name without text'), ([['a']], 'a text or a number')):
        assert said in error_text(CategoryBlock, vocab=vocab)
    with pytest.warns(UserWarning, match="more than once, for example 'a'"):
        CategoryBlock(vocab=['a','b','a'])
    with pytest.raises(ValueError, match='a name of its own'), pytest.warns(UserWarning):
        MultiCategoryBlock(True, vocab=['a','a'])
    with pytest.warns(UserWarning, match='look like'): CategoryBlock(vocab=['a','a '])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        CategoryBlock(vocab=['a','A'])                      # somebody wrote them so

def test_an_unknown_label_that_looks_like_a_known_one(files):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        said = error_text(of_lists, files, ['cat']*19+['Cat '], y_block=CategoryBlock(vocab=['cat']))
    assert "It looks like 'cat'" in said and "'Cat '" in said

# ---- columns

def test_a_column_of_numbers_mentions_regression(table):
    table['price'] = np.linspace(0, 1, 20)
    with pytest.warns(UserWarning, match='RegressionBlock'):
        assert 'y_block=RegressionBlock' in error_text(of_table, table, label_col='price')
    table['price'] = '0,5'
    said = error_text(of_table, table, label_col='price', y_block=RegressionBlock)
    assert "the text '0,5'" in said and "decimal=','" in said and 'training row' in said

@pytest.mark.parametrize('second,vocab,said', [
    (2, 'rb', "label of 'b' is 2"), (float('nan'), 'rb', "label of 'b' is nan"),
    (.5, 'rb', "label of 'b' is 0.5"), (1, 'rbx', '3 names in `vocab`')])
def test_0_and_1_columns_are_checked(table, second, vocab, said):
    table['r'],table['b'] = 1,[0]*7+[second]*13
    y_block = MultiCategoryBlock(encoded=True, vocab=list(vocab))
    text = error_text(of_table, table, label_col=['r','b'], y_block=y_block)
    assert said in text and 'row' in text

def test_columns_of_any_kind(table):
    table['r'],table['b'] = 1,0
    assert of_table(table, label_col=table.columns[2:]).vocab==['r','b']
    for dtype in 'category','string':
        assert of_table(table.astype({'label':dtype}), label_col='label').vocab==['cat','dog']
    padded = table.rename(columns={'label':' Label'})
    assert "Did you mean ' Label'?" in error_text(of_table, padded, label_col='label')
    twice = table[['f','label','r']].set_axis(['f','label','label'], axis=1)
    for cols in 'label',['label','f']:
        assert "2 columns named 'label'" in error_text(of_table, twice, label_col=cols)
    assert of_table(twice, label_col=1).vocab==['cat','dog']

def test_doubled_items_are_told(table):
    with pytest.warns(UserWarning, match="3 items appear twice, .* '.*cat_0.jpg' as number 0 and 20"):
        of_table(pd.concat([table, table[:3]]), label_col='label')
    with pytest.warns(UserWarning, match='2 of them are in training and in validation'):
        more = pd.concat([table, table[:2]])
        of_lists(more.f, more.label, splitter=IndexSplitter([20,21]))

# ---- CSV files

def csv(path, text, encoding='utf-8', **changes):
    (path/'labels.csv').write_bytes(text.encode(encoding))
    return ImageDataLoaders.from_csv(path, **kw | changes)

@pytest.fixture
def text(files): return '\n'.join(['name,label', *(f'{o.name},{o.name[:3]}' for o in files)])

@pytest.mark.parametrize('encoding', ['utf-8','utf-8-sig','utf-16'])
def test_encodings(folder, text, encoding):
    assert csv(folder, text.replace(',cat', ',Kätzchen'), encoding).vocab==['Kätzchen','dog']

@pytest.mark.parametrize('change,said', [
    (lambda s: s.replace(',', ';'), "pass `delimiter=';'`"),
    (lambda s: '', 'is empty'),
    (lambda s: 'name,label', 'There are no items'),
    (lambda s: pd.read_csv(io.StringIO(s)).to_csv(), 'the index that `to_csv` wrote'),
    (lambda s: s.replace(',cat', ',NA'), 'keep_default_na=False'),
    (lambda s: s.replace(',cat', ', '), 'no label for row'),
    (lambda s: s+'\na,b,c,d', 'no table that pandas can read'),
    (lambda s: s.replace('cat\n', 'cat,\n').replace('dog\n', 'dog,\n'), 'more cells')])
def test_tables_that_go_wrong(folder, text, change, said):
    message = error_text(csv, folder, change(text))
    assert said in message, message
def test_a_table_without_names_of_columns(folder, text):
    text = text.split('\n', 1)[1]
    with pytest.warns(UserWarning, match='pass `header=None`'): csv(folder, text)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        dls = csv(folder, text, header=None)
        assert len(dls.train_ds)+len(dls.valid_ds)==20

def test_another_encoding(folder, text):
    said = error_text(csv, folder, text.replace(',cat', ',Kätzchen'), 'latin-1')
    assert "labels.csv' is not encoded as UTF-8" in said and "encoding='latin-1'" in said
def test_numbers_that_are_names(folder):
    for i in range(4): Image.new('RGB', (8,8)).save(folder/f'00{i}.jpg')
    rows = '\n'.join(f'00{i},0{i%2}' for i in range(4))
    dls = csv(folder, f'name,label\n{rows}', suff='.jpg', splitter=IndexSplitter([0,1]))
    assert dls.vocab==['00','01'] and len(dls.one_batch()[0])
