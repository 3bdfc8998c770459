"Bad input, from a folder to a learner: each error names the culprit and the remedy, and nothing is lost."
import os, signal
import matplotlib
matplotlib.use('Agg')
import pytest, torch
from coursekit.errors import full_message
from coursekit.vision.all import *
for _n in [n for n in globals() if n.startswith('test')]:
    del globals()[_n]   # fastcore's own, which pytest would collect

def block(**kw):
    return DataBlock(**{**dict(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files,
                               splitter=RandomSplitter(seed=42),
                               get_y=using_attr(RegexLabeller(r'(.+)_\d+.jpg$'), 'name'),
                               item_tfms=Resize(32)), **kw})
def small_net(): return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12,2))

def test_empty_folder(tmp_path):
    with pytest.raises(ValueError, match='found nothing') as e: block().dataloaders(tmp_path)
    assert str(tmp_path) in str(e.value)
    with pytest.raises(FileNotFoundError, match='no folder'): block().dataloaders(tmp_path/'nowhere')

@pytest.mark.parametrize('make', ['from_folder', 'from_name_func'])
def test_empty_folder_of_loaders(tmp_path, make):
    with pytest.raises(ValueError, match='found nothing|no items'):
        if make=='from_folder': ImageDataLoaders.from_folder(tmp_path, valid_pct=0.2, item_tfms=Resize(32))
        else:
            ImageDataLoaders.from_name_func(tmp_path, get_image_files(tmp_path), label_func=str.isupper,
                                            item_tfms=Resize(32))

@pytest.mark.parametrize('damage', ['text','empty','truncated'])
def test_one_corrupt_picture(folder, damage):
    bad = folder/'dog_7.jpg'
    raw = bad.read_bytes()
    bad.write_bytes({'text':b'<html>not a picture</html>', 'empty':b'',
                     'truncated':raw[:len(raw)//2]}[damage])
    learn = Learner(block().dataloaders(folder, bs=4), small_net(), metrics=accuracy)
    with learn.no_bar(), learn.no_logging(), pytest.raises(Exception, match='dog_7.jpg') as e: learn.fit(1)
    assert 'verify_images' in str(e.value)
    failed = verify_images(get_image_files(folder))
    assert failed==[bad]
    failed.map(Path.unlink)
    learn.dls = block().dataloaders(folder, bs=4)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)

def test_regex_that_matches_nothing(folder):
    with pytest.raises(ValueError, match='does not match') as e:
        block(get_y=using_attr(RegexLabeller(r'(.+)-\d+.png$'), 'name')).dataloaders(folder)
    assert '.jpg' in str(e.value) and r'(.+)-\d+.png$' in str(e.value)

def test_unequal_sizes(folder):
    with pytest.raises(Exception, match='unequal') as e:
        block(item_tfms=None).dataloaders(folder, bs=4).one_batch()
    assert 'Resize' in str(e.value) and 'shape' in str(e.value)

def test_label_only_in_validation(folder):
    (folder/'cow_99.jpg').write_bytes((folder/'dog_1.jpg').read_bytes())
    with pytest.raises(KeyError) as e:
        block(splitter=FuncSplitter(lambda f: f.name.startswith('cow'))).dataloaders(folder)
    said = full_message(e.value)
    assert "'cow'" in said and 'cow_99.jpg' in said and 'vocab' in said, said

def test_one_class(folder):
    with pytest.warns(UserWarning, match='one and the same label'):
        block(get_y=lambda f: 'pet').dataloaders(folder)

def test_no_training_items(folder):
    with pytest.raises(ValueError, match='training set is empty'):
        block(splitter=RandomSplitter(1.)).dataloaders(folder)

def test_summary_names_the_step(folder, capsys):
    with pytest.raises(Exception): block(item_tfms=None).summary(folder)
    assert 'unequal shapes' in capsys.readouterr().out

def test_ctrl_c_leaves_the_learner_usable(folder):
    class CtrlC(Callback):
        def after_batch(self):
            if self.epoch==2 and self.training and self.iter==1: os.kill(os.getpid(), signal.SIGINT)
    learn = Learner(block().dataloaders(folder, bs=4), small_net(), metrics=accuracy)
    with learn.no_bar(), learn.no_logging():
        with pytest.raises(KeyboardInterrupt): learn.fit(200, cbs=CtrlC())
        done = len(learn.recorder.values)
        assert done==2, 'the table so far is kept'
        assert not any(isinstance(c, CtrlC) for c in learn.cbs)
        learn.fit(1)
    assert len(learn.recorder.values)==1 and torch.isfinite(learn.get_preds()[0]).all()
