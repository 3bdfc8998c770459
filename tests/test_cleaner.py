"ImageClassifierCleaner without a browser: marks, views, and what becomes of folders, tables and names"
import os, pickle, random, shutil
from pathlib import Path
import numpy as np, pandas as pd, pytest, torch
from PIL import Image
from torch import nn
from coursekit.vision.all import (CategoryBlock, ColReader, DataBlock, DataLoaders, ImageBlock,
    ImageClassifierCleaner, ImageDataLoaders, ImagesCleaner, IndexSplitter, ItemGetter, Learner, MaskBlock,
    MultiCategoryBlock, PILImage, RegressionBlock, Resize, aug_transforms, get_image_files, parent_label)

ODD = '<img src=x onerror=alert(1)>'
TINTS = {'blue':2, 'green':1, 'red':0}

def draw(path, channel, seed):
    px = np.random.default_rng(seed).integers(0, 90, (12,16,3), dtype='uint8')
    px[...,channel] += 150
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(px).save(path)

@pytest.fixture
def root(tmp_path):
    "Six pictures of each of three kinds, in folders"
    for kind,channel in TINTS.items():
        for i in range(6): draw(tmp_path/'data'/kind/f'{kind}_{i}.png', channel, i)
    return tmp_path/'data'

def learner(dls, n_out=None, **kwargs):
    torch.manual_seed(0)
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, n_out or dls.c))
    return Learner(dls, net, **kwargs)

def block(get_y=parent_label, y=CategoryBlock, valid=range(0, 18, 3), **kwargs):
    return DataBlock((ImageBlock, y), get_items=get_image_files, get_y=get_y, splitter=IndexSplitter(valid),
                     item_tfms=Resize(8), **kwargs)

def cleaner(learn_or_dls, **kwargs):
    learn = learn_or_dls if isinstance(learn_or_dls, Learner) else learner(learn_or_dls)
    with learn.no_bar(): return ImageClassifierCleaner(learn, **kwargs)

@pytest.fixture
def c(root): return cleaner(block().dataloaders(root, bs=4))

def menus(c): return [card.children[2] for card in c.grid.children]
def name(c, i): return c.fns[i].name

# What is shown

def test_all_pictures_the_worst_first(c, root):
    assert sorted(c.fns)==sorted(get_image_files(root)) and len(c.shown)==12
    assert list(c.losses[c.shown])==sorted(c.losses[c.shown], reverse=True)
    c.dd_cats.value = 'red'
    assert {c.labels[i] for i in c.shown}=={'red'} and {c.split_of(i) for i in c.shown}=={'Train'}
    assert list(c.losses[c.shown])==sorted(c.losses[c.shown], reverse=True)

def test_losses_of_a_split_are_measured_when_it_is_first_shown(c):
    calls,get_preds = [],c.learn.get_preds
    def counted(**kwargs):
        calls.append(kwargs['dl'].n)
        return get_preds(**kwargs)
    c.learn.get_preds = counted
    for split in ('Train','Valid','Train','Valid'):
        c.dd_ds.value = split
        assert all(np.isfinite(c.losses[i]) and c.split_of(i)==split for i in c.shown)
    assert calls==[6]

def test_only_the_split_that_is_shown_first_is_measured(c):
    only = cleaner(c.learn, split='Valid')
    assert {only.split_of(i) for i in only.shown}=={'Valid'} and only.dd_ds.value=='Valid'
    assert np.isfinite(only.losses).sum()==6 and len(only.worst(split='Train'))==12
    assert np.isfinite(only.losses).all()
    with pytest.raises(ValueError, match="no split 'Test', only 'Train', 'Valid'"):
        cleaner(c.learn, split='Test')

def test_losses_know_no_augmentation_and_leave_random_numbers_alone(root):
    dls = block(batch_tfms=aug_transforms(p_lighting=1., max_lighting=0.9)).dataloaders(
        root, bs=5, drop_last=True, sampler=list(range(11,-1,-1)))
    learn = learner(dls)
    before = torch.get_rng_state(),random.getstate()
    c = cleaner(learn)
    assert torch.equal(before[0], torch.get_rng_state()) and before[1]==random.getstate()
    _,_,losses = learn.get_preds(dl=dls.test_dl(list(c.fns), with_labels=True), with_loss=True)
    c.judge('Valid')
    np.testing.assert_allclose(c.losses, losses.numpy(), atol=1e-5)

def test_losses_that_are_no_numbers_come_first(root):
    learn = learner(block().dataloaders(root, bs=4))
    def nan_for_red(p, t, reduction='mean'):
        loss = nn.functional.cross_entropy(p, t, reduction='none')
        loss = torch.where(t==2, torch.nan, loss)
        return loss.mean() if reduction=='mean' else loss
    learn.loss_func = nan_for_red
    c = cleaner(learn)
    assert [c.labels[i] for i in c.shown[:4]]==['red']*4
    assert 'nan' in c.grid.children[0].children[0].value and 'nan' in str(c.to_df(marked=False).loss.iloc[0])

def test_more_pictures_than_fit(root):
    c = cleaner(block(valid=[0]).dataloaders(root, bs=4), max_n=7)
    seen = [list(c.shown)]
    assert c.pager[0].disabled and not c.pager[1].disabled and c.pager[0].layout.display is None
    for _ in range(2):
        c.pager[1].click()
        seen.append(list(c.shown))
    assert [len(o) for o in seen]==[7,7,3] and sum(seen, [])==c.worst() and c.pager[1].disabled
    assert '15–17 of 17' in c.summary()
    c.pager[0].click()
    assert c.shown==seen[1]
    c.dd_cats.value = 'red'
    assert len(c.shown)==6 and c.pager[0].layout.display=='none'

def test_a_picture_keeps_its_card(c):
    "So that a choice, however late it comes, is one for the picture under which it was made"
    cards = dict(zip(c.shown, c.grid.children))
    for cat in ('red','green',None)*2: c.dd_cats.value = cat
    assert dict(zip(c.shown, c.grid.children))==cards
    old = c.shown[0]
    c.dd_ds.value = 'Valid'
    cards[old].children[2].value = '<Delete>'
    assert c.delete()==[old]

def test_an_error_while_losses_are_measured_is_shown(c):
    c.learn.model = nn.Linear(1, 1)
    c.dd_ds.value = 'Valid'
    assert 'Error' in c.note.value and not c.grid.children
    c.dd_ds.value = 'Train'
    assert len(c.grid.children)==12

def test_a_picture_that_vanishes_is_left_out(c):
    gone = c.shown[3]
    c.mark(gone, '<Delete>')
    c.fns[gone].unlink()
    assert c.delete()==[]
    c.dd_ds.value,c.dd_ds.value = 'Valid','Train'
    assert gone not in c.shown and len(c.shown)==11

def test_a_broken_picture_is_told_on_its_card(c):
    c.judge('Valid')
    i = c.worst(None, 'Valid')[0]
    c.fns[i].write_bytes(b'no picture')
    c.dd_ds.value = 'Valid'
    assert 'Cannot read the picture' in c.grid.children[0].children[0].value
    assert c._repr_mimebundle_()['image/png']

# Marks

def test_marks_stay_when_class_and_split_change(c):
    c.dd_cats.value = 'red'
    first = list(c.shown)
    menus(c)[0].value,menus(c)[1].value = 'blue','<Delete>'
    c.dd_ds.value = 'Valid'
    valid = c.shown[0]
    assert {m.value for m in menus(c)}=={'<Keep>'}
    menus(c)[0].value = 'green'
    c.dd_cats.value = 'green'
    assert {m.value for m in menus(c)}=={'<Keep>'}
    c.dd_ds.value,c.dd_cats.value = 'Train','red'
    assert c.shown==first and [m.value for m in menus(c)]==['blue','<Delete>','<Keep>','<Keep>']
    assert c.delete()==[first[1]] and set(c.change())=={(first[0],'blue'), (valid,'green')}
    assert '2 of these 4 marked, 3 in all: 1 to delete, 2 to change' in c.summary()
    df = c.to_df()
    assert list(df.columns)==['file','split','label','mark','pred','prob','loss'] and len(df)==3
    row = df.loc[valid]
    assert (row.split,row.label,row.mark)==('Valid','red','green') and 0<row.prob<=1 and row.loss>0

def test_choosing_the_own_class_is_keeping(c):
    i = c.shown[0]
    menus(c)[0].value = '<Delete>'
    menus(c)[0].value = c.labels[i]
    assert menus(c)[0].value=='<Keep>' and not c.marks

def test_marks_made_by_code_are_shown(c):
    c.mark(c.fns[c.shown[2]], '<Delete>')
    c.mark(str(c.fns[c.shown[1]]), 'red')
    c.mark(c.shown[1], '<Keep>')
    assert [m.value for m in menus(c)[:3]]==['<Keep>','<Keep>','<Delete>']
    assert '#D55E00' in c.grid.children[2].layout.border_top
    assert c.values()[c.shown[2]]=='<Delete>' and len(c.values())==18

@pytest.mark.parametrize('which,mark,error,says', [
    (0, 'cat', ValueError, "'cat' is not in the menu.*opts="), (99, 'red', IndexError, '99'),
    ('x.png', 'red', KeyError, 'no picture'), (-19, 'red', IndexError, '19')])
def test_marks_that_make_no_sense(c, which, mark, error, says):
    with pytest.raises(error, match=says): c.mark(which, mark)
    assert not c.marks

def test_new_classes(root):
    c = cleaner(block().dataloaders(root, bs=4), opts=['yellow','red'])
    assert c.opts==['<Keep>','<Delete>','blue','green','red','yellow']
    menus(c)[0].value = 'yellow'
    assert c.change()==[(c.shown[0],'yellow')] and 'yellow' in set(c.cleaned().label)
    assert cleaner(c.learn, opts='yellow').opts[-1]=='yellow'
    with pytest.raises(ValueError, match='may not be called'): cleaner(c.learn, opts=['<Delete>'])

@pytest.mark.parametrize('kwargs', [dict(max_n=0), dict(height=0), dict(width='wide')])
def test_sizes_that_make_no_sense(c, kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))): ImageClassifierCleaner(c.learn, **kwargs)

def test_fastai_loops(c, root):
    "As fastai's users write them, also for a second round"
    c.mark(c.shown[0], '<Delete>')
    for rounds in range(2):
        c.mark(c.shown[rounds+1], 'red' if c.labels[c.shown[rounds+1]]!='red' else 'blue')
        n = len(c.change())
        for idx in c.delete(): c.fns[idx].unlink()
        for idx,cat in c.change(): shutil.move(str(c.fns[idx]), root/cat)
        assert n==1 and c.delete()==[] and c.change()==[]
    assert len(get_image_files(root))==17

# Kinds of data

def test_names_that_are_html(tmp_path):
    odd = 'a&b "c" \'d\' <i>.png'
    for i in range(3): draw(tmp_path/f'{i}'/odd, i, i)
    c = cleaner(block(lambda o: f'{ODD}{o.parent.name}', valid=[]).dataloaders(tmp_path, bs=2),
                opts=['line\nbreak'])
    text = ''.join(card.children[0].value for card in c.grid.children) + c.note.value
    assert '<img' not in text and '<i>' not in text and '&lt;img' in text and '&quot;c&quot;' in text
    assert menus(c)[0].options[-1]==('line\\nbreak','line\nbreak')
    c.dd_cats.value = f'{ODD}1'
    assert '<img' not in c.note.value and len(c.shown)==1
    c.mark(c.shown[0], f'{ODD}0')
    assert c._repr_mimebundle_()['image/png'] and len(c.cleaned())==3

def test_one_class(root):
    with pytest.warns(UserWarning, match='one and the same label'):
        dls = ImageDataLoaders.from_path_func(root, get_image_files(root/'red'), parent_label, valid_pct=0.5,
                                              item_tfms=Resize(8), bs=2)
    c = cleaner(learner(dls, 1), opts=['new'])
    c.mark(0, 'new')
    assert c.opts[2:]==['red','new'] and len(c.shown)==3 and c.change()==[(0,'new')]

def test_a_class_that_a_split_lacks(root):
    dls = block(y=CategoryBlock(['blue','green','red','white']), valid=range(6)).dataloaders(root, bs=4)
    c = cleaner(dls)
    c.dd_cats.value = 'blue'
    assert c.shown==[] and '0–0 of 0' in c.summary() and c._repr_mimebundle_()['image/png']
    c.dd_ds.value = 'Valid'
    assert len(c.shown)==6

@pytest.mark.parametrize('valid', [[], None])
def test_without_validation(root, valid):
    dls = block(valid=[]).dataloaders(root, bs=4)
    if valid is None: dls.loaders = dls.loaders[:1]
    c = cleaner(dls)
    assert list(c.dd_ds.options)==['Train'] and len(c.shown)==18 and not c.cleaned().is_valid.any()

def test_loaders_without_labels_are_left_out_and_labelled_ones_named(root):
    dls = block().dataloaders(root, bs=4)
    files = get_image_files(root)[:4]
    dls.loaders += [dls.test_dl(files), dls.test_dl(files, with_labels=True)]
    c = cleaner(dls)
    assert list(c.dd_ds.options)==['Train','Valid','Set 3']
    c.dd_ds.value = 'Set 3'
    assert len(c.shown)==4
    c.mark(files[0], '<Delete>')                                # in both sets where it is
    assert len(c.delete())==2 and len(c.cleaned())==17          # a test set does not become training data
    dls.loaders = [dls.test_dl(files)]
    with pytest.raises(ValueError, match='no labelled pictures'):
        cleaner(learner(dls, 3, loss_func=nn.CrossEntropyLoss()))

def several(o): return [o.parent.name, 'picture']
def mask(o): return np.zeros((12,16), np.uint8)
def plain_dls():
    ds = torch.utils.data.TensorDataset(torch.rand(4,3,8,8), torch.tensor([0,1,0,1]))
    return DataLoaders(*[torch.utils.data.DataLoader(ds, 2)]*2)

@pytest.mark.parametrize('make,error,says', [
    (lambda r: block(several, MultiCategoryBlock).dataloaders(r, bs=4), TypeError, 'one class.*Multi'),
    (lambda r: block(lambda o: 1., RegressionBlock).dataloaders(r, bs=4), TypeError, 'one class for'),
    (lambda r: block(mask, MaskBlock(['a'])).dataloaders(r, bs=4), TypeError, 'one class for each.*Mask'),
    (lambda r: plain_dls(), TypeError, 'DataBlock'),
    (lambda r: block().dataloaders(r, bs=4).new_empty(), ValueError, 'no labelled pictures.*has no data')])
def test_what_is_no_data_for_it(root, make, error, says):
    with pytest.raises(error, match=says): cleaner(learner(make(root), 3, loss_func=nn.CrossEntropyLoss()))

def test_what_is_no_learner(c):
    for o in (c.learn.dls, Learner, None):
        with pytest.raises(TypeError, match='takes a trained `Learner`'): ImageClassifierCleaner(o)

def test_pictures_in_memory(root):
    items = [(PILImage.create(f), parent_label(f)) for f in get_image_files(root)]
    sizes = [o[0].size for o in items]
    b = DataBlock((ImageBlock, CategoryBlock), get_x=ItemGetter(0), get_y=ItemGetter(1),
                  item_tfms=Resize(8), splitter=IndexSplitter([0,6]))
    c = cleaner(b.dataloaders(items, bs=4), height=4)
    menus(c)[0].value = '<Delete>'
    assert c.delete()==[c.shown[0]] and c.fns[c.shown[0]][0].size==(16,12)
    assert [o[0].size for o in items]==sizes and 'PILImage' in c.to_df().file.iloc[0]
    for f in (c.cleaned, c.move_files, c.labelling):
        with pytest.raises(TypeError, match='is no file but .*PILImage'): f()

# What becomes of the marks

def test_cleaned_keeps_the_split(c):
    red = [i for i in range(18) if c.labels[i]=='red']
    c.mark(red[0], 'blue')
    c.mark(red[1], '<Delete>')
    df = c.cleaned()
    assert len(df)==17 and df.label[df.file==str(c.fns[red[0]])].tolist()==['blue']
    dls = ImageDataLoaders.from_df(df, valid_col='is_valid', item_tfms=Resize(8), bs=4)
    assert dls.valid.n==6 and {*map(Path, df.file[df.is_valid])}=={*map(Path, c.fns[12:])}

def table(root):
    files = get_image_files(root)
    return pd.DataFrame({'note':range(18), 'name':[str(f.relative_to(root))[:-4] for f in files],
                         'kind':[parent_label(f) for f in files]})

def from_df(df, root, **kwargs):
    kwargs = dict(fn_col='name', label_col='kind', suff='.png', item_tfms=Resize(8), bs=4, seed=1) | kwargs
    return cleaner(ImageDataLoaders.from_df(df, root, **kwargs), opts=['yellow'])

def test_tables(root):
    df = table(root)
    before = df.copy()
    c = from_df(df, root)
    c.mark(root/'red/red_1.png', 'yellow')
    c.mark(root/'red/red_2.png', '<Delete>')
    want = df[df.name!='red/red_2'].copy()
    want.loc[want.name=='red/red_1','kind'] = 'yellow'
    pd.testing.assert_frame_equal(c.cleaned_table(df), want)
    pd.testing.assert_frame_equal(c.cleaned_table(), want)
    pd.testing.assert_frame_equal(c.cleaned_table(df.sample(frac=1, random_state=0)).sort_index(), want)
    pd.testing.assert_frame_equal(df, before)
    again = from_df(c.cleaned_table(df), root)
    assert set(again.vocab)=={'blue','green','red','yellow'}
    with pytest.raises(TypeError, match='cleaned_table'): c.labelling()

def test_tables_from_csv_with_labels_of_other_kinds(root):
    df = table(root)[['name','kind']]
    df['kind'] = df.kind.map({'blue':7, 'green':8, 'red':9})
    df.to_csv(root/'labels.csv', index=False)
    c = cleaner(ImageDataLoaders.from_csv(root, suff='.png', item_tfms=Resize(8), bs=4))
    c.mark(root/'red/red_1.png', 7)
    res = c.cleaned_table()
    assert res.kind.dtype==df.kind.dtype and res.kind[res.name=='red/red_1'].tolist()==[7]
    df['kind'] = df.kind.astype(str).astype('category')
    df.index = [0]*18                                           # an index that tells no row from another
    c = from_df(df, root)
    c.mark(root/'red/red_1.png', 'yellow')
    res = c.cleaned_table(df)
    assert res.kind.cat.categories.tolist()==['7','8','9','yellow'] and (res.kind=='yellow').sum()==1
    assert len(c.cleaned_table())==18

def test_a_file_that_stands_in_two_rows(root):
    df = table(root)
    df = pd.concat([df, df.iloc[[0]].assign(kind='red')], ignore_index=True)
    with pytest.warns(UserWarning, match='twice'): c = from_df(df, root)
    row = next(i for i in range(19) if c.fns[i]==root/'blue/blue_0.png' and c.labels[i]=='red')
    c.mark(row, '<Delete>')
    assert c.cleaned_table(df).index.tolist()==list(range(18))

def test_columns_that_functions_read(root):
    b = DataBlock((ImageBlock, CategoryBlock), get_x=ColReader('name', pref=root, suff='.png'),
                  get_y=lambda row: row['kind'], item_tfms=Resize(8), splitter=IndexSplitter([0]))
    df = table(root)
    c = cleaner(b.dataloaders(df, bs=4))
    c.mark(root/'red/red_1.png', 'blue')
    with pytest.raises(ValueError, match='label_col'): c.cleaned_table(df)
    assert (c.cleaned_table(df, 'kind').kind=='blue').sum()==7
    with pytest.raises(KeyError, match="no column 'sort'"): c.cleaned_table(df, 'sort')

def kind_in_name(o): return Path(o).name.split('_')[0]

def test_labels_in_names(root):
    files = get_image_files(root)
    c = cleaner(ImageDataLoaders.from_name_re(root, files, r'(.+)_\d', item_tfms=Resize(8), bs=4, seed=0))
    red = [f for f in files if 'red' in f.name]
    c.mark(red[0], 'blue')
    c.mark(red[1], '<Delete>')
    for get_y in (c.labelling(), pickle.loads(pickle.dumps(c.labelling(kind_in_name)))):
        assert [get_y(f) for f in red]==['blue',*['red']*5]
        assert get_y(os.path.relpath(red[0]))=='blue'
        dls = ImageDataLoaders.from_path_func(root, c.kept(files), get_y, item_tfms=Resize(8), bs=4, seed=0)
        assert dls.train.n+dls.valid.n==17
    shutil.move(red[0], root/'blue'/'other_0.png')
    with pytest.raises(ValueError, match='is gone'): c.cleaned()

# Folders

def contents(d): return {str(f.relative_to(d)): f.read_bytes() for f in sorted(d.rglob('*')) if f.is_file()}

def test_files_are_moved_and_none_is_lost(c, root):
    before = list(contents(root).values())
    draw(root/'blue'/'red_1.png', 1, 99)                        # a name that is taken
    taken = (root/'blue'/'red_1.png').read_bytes()
    c.mark(root/'red/red_1.png', 'blue')
    c.mark(root/'red/red_2.png', '<Delete>')
    here = contents(root)
    plan = c.move_files(dry_run=True)
    assert contents(root)==here and len(c.marks)==2
    moved = c.move_files()
    pd.testing.assert_frame_equal(moved, plan)
    bin = root.with_name('data_deleted')
    assert set(moved.to)=={str(root/'blue'/'red_1_1.png'), str(bin/'red'/'red_2.png')}
    assert (root/'blue'/'red_1.png').read_bytes()==taken
    after = [*contents(root).values(), *contents(bin).values()]
    assert sorted(after)==sorted([*before, taken])
    assert not c.marks and len(c.move_files())==0 and len(c.shown)<=12
    block().dataloaders(root, bs=4)

def test_views_and_labels_when_the_first_file_has_moved(c, root):
    first = c.fns[0]
    c.mark(0, '<Delete>')
    c.mark(1, 'red' if c.labels[1]!='red' else 'blue')
    c.move_files()
    c.dd_ds.value = 'Valid'
    c.dd_cats.value = c.labels[0]
    c.dd_ds.value = 'Train'
    assert c.grid.children and not any('Error' in card.children[0].value for card in c.grid.children)
    assert c.labelling()(first)==c.labels[0]

def test_train_and_valid_folders(tmp_path):
    for split in ('train','valid'):
        for kind,channel in TINTS.items():
            for i in range(2): draw(tmp_path/'d'/split/kind/f'{i}.png', channel, i)
    c = cleaner(ImageDataLoaders.from_folder(tmp_path/'d', item_tfms=Resize(8), bs=4), opts=['new'])
    c.mark(tmp_path/'d/valid/red/0.png', 'new')
    c.mark(tmp_path/'d/train/red/0.png', '<Delete>')
    c.mark(tmp_path/'d/valid/red/1.png', '<Delete>')
    c.move_files()
    assert (tmp_path/'d/valid/new/0.png').exists()
    assert set(contents(tmp_path/'d_deleted'))=={'train/red/0.png','valid/red/1.png'}

def test_erasing_has_to_be_asked_for(c, root):
    c.mark(root/'red/red_2.png', '<Delete>')
    moved = c.move_files(really=True)
    assert moved.to.tolist()==[None] and len(get_image_files(root))==17
    assert not root.with_name('data_deleted').exists()

def test_two_files_of_one_name(tmp_path):
    for i,d in enumerate(('a','b')):
        for j in range(3): draw(tmp_path/'x'/d/f'{j}.png', i, j)
    c = cleaner(block(valid=[0]).dataloaders(tmp_path/'x', bs=2), opts=['c'])
    for d in 'ab': c.mark(tmp_path/'x'/d/'1.png', 'c')
    c.move_files()
    assert set(contents(tmp_path/'x'/'c'))=={'1.png','1_1.png'}

def linked_file(c, root): # Refused, and why
    real = root.parent/'elsewhere.png'
    shutil.move(root/'red/red_1.png', real)
    (root/'red/red_1.png').symlink_to(real)
    return 'is a link'
def linked_folder(c, root):
    shutil.move(root/'red', root.parent/'far')
    (root/'red').symlink_to(root.parent/'far')
    return 'is outside of'
def linked_target(c, root):
    shutil.move(root/'blue', root.parent/'far')
    (root/'blue').symlink_to(root.parent/'far')
    return 'is no folder, or a link'
def target_is_a_file(c, root):
    shutil.rmtree(root/'blue')
    (root/'blue').write_text('x')
    return 'is no folder'

@pytest.mark.parametrize('arrange', [linked_file, linked_folder, linked_target, target_is_a_file])
def test_links_are_refused_before_anything_is_moved(c, root, arrange):
    c.mark(root/'green/green_1.png', '<Delete>')
    c.mark(root/'red/red_1.png', 'blue')
    says = arrange(c, root)
    here = contents(root.parent)
    with pytest.raises(ValueError, match=says): c.move_files(root)
    assert contents(root.parent)==here

def test_places_that_are_refused(c, root):
    c.mark(root/'red/red_1.png', '<Delete>')
    for kwargs,says in ((dict(bin=root/'bin'), 'be found again'), (dict(path=root/'blue'), 'outside of'),
                        (dict(path=root/'no'), 'no folder')):
        with pytest.raises(ValueError, match=says): c.move_files(**kwargs)
    (root.parent/'bin').write_text('x')
    with pytest.raises(ValueError, match='is no folder'): c.move_files(bin=root.parent/'bin')
    assert len(contents(root))==18

@pytest.mark.parametrize('new', ['../out', '/out', 'a/b', '..', '.hidden', 'a\\b', ' '])
def test_classes_that_cannot_be_folders(root, new):
    c = cleaner(block().dataloaders(root, bs=4), opts=[new])
    c.mark(root/'red/red_1.png', new)
    here = contents(root.parent)
    with pytest.raises(ValueError, match='cannot be the name of a folder'): c.move_files()
    assert contents(root.parent)==here

def test_labels_that_are_not_the_folder(root):
    c = cleaner(block(lambda o: o.stem[-1], valid=[0]).dataloaders(root, bs=4))
    c.mark(root/'red/red_1.png', '2')
    with pytest.raises(ValueError, match='not in a folder with the name of its label.*labelling'):
        c.move_files()
    c.marks.clear()
    c.mark(root/'red/red_1.png', '<Delete>')
    c.move_files()
    assert [*contents(root.with_name('data_deleted'))]==['red/red_1.png']

def test_a_move_that_fails_half_way_can_go_on(c, root, monkeypatch):
    for i in range(3): c.mark(root/f'red/red_{i}.png', 'blue')
    move = shutil.move
    def full(a, b):
        if 'red_2' in str(a): raise OSError(28, 'No space left on device', str(b))
        return move(a, b)
    with monkeypatch.context() as m:
        m.setattr(shutil, 'move', full)
        with pytest.raises(OSError, match='No space left'): c.move_files()
    assert len(contents(root))==18 and len(c.change())==2
    c.move_files()
    assert len(list((root/'blue').glob('red_*')))==3 and len(contents(root))==18

def test_images_cleaner_alone(root):
    files = get_image_files(root)
    grid = ImagesCleaner(['old','new'], height=32, max_n=4)
    grid.set_fns(map(str, files))
    grid.mark(2, 'new')
    assert (len(grid.fns),len(grid.shown),grid.change())==(18,4,[(2,'new')])
    grid.set_fns(files[2:])
    assert grid.change()==[(0,'new')] and menus(grid)[0].value=='new'
    grid.set_fns([])
    assert grid.values()==[] and grid._repr_mimebundle_()['image/png']
