"""The world in which a fault of `test_fault_drill.py` happens, and what can be promised of it.

A row of the table is `row(name, what goes wrong, promise, promise …)`. A promise is a text and a function of
the `World` and the `Outcome` that fails an assertion if the promise is broken."""
import contextlib, functools, gc, io, multiprocessing, os, stat, time, warnings, zipfile
from dataclasses import dataclass
import torch
from PIL import Image
from servers import FaultServer, tgz
from coursekit.data.external import untar_data
from coursekit.errors import full_message
from coursekit.fetch import download
from coursekit.vision.all import *

GOOD = tgz({'3/a.txt':b'three', '7/b.txt':b'seven', 'noise':os.urandom(100_000)}, root='set/')

@dataclass
class Promise:
    text: str
    check: object

@dataclass
class Row:
    group: str
    name: str
    fault: object
    promises: tuple
    seconds: float = 10
    marks: tuple = ()

    @property
    def id(self): return f'{self.group}: {self.name}'

@dataclass
class Outcome:
    "What came of a fault"
    result: object = None
    error: BaseException = None
    said: str = '' # Warnings, and what was printed
    seconds: float = 0.

    @property
    def message(self):
        return '' if self.error is None else f'{type(self.error).__name__}: {full_message(self.error)}'

@functools.cache
def _jpeg(i): # Two kinds, of sizes that differ
    g = torch.Generator().manual_seed(i)
    px = torch.randint(0, 120, (40+i,60-i,3), generator=g, dtype=torch.uint8)
    px[...,i%2] += 120
    buf = io.BytesIO()
    Image.fromarray(px.numpy()).save(buf, 'jpeg')
    return buf.getvalue()

def weights_of(o): return {k:v.detach().clone() for k,v in o.state_dict().items()}

class World:
    "A folder of its own with a cache, pictures, a learner and a server, each made when it is asked for"
    def __init__(self, tmp, monkeypatch):
        self.tmp,self.patch = tmp,monkeypatch.setattr
        self.home,self.work,self.outside,self.ran = tmp/'home',tmp/'work',tmp/'outside',tmp/'RAN'
        for o in (self.work,self.outside): o.mkdir()
        (self.outside/'mine.txt').write_text('mine')
        self.at_start = {o.name for o in tmp.iterdir()} | {'home'}
        for o in list(os.environ):
            if o.lower().endswith('_proxy'): monkeypatch.delenv(o)
        monkeypatch.setenv('COURSEKIT_HOME', str(self.home))
        monkeypatch.setenv('TORCH_HOME', str(self.home/'torch'))
        monkeypatch.setenv('HOME', str(tmp/'home'))
        monkeypatch.chdir(self.work)
        self.env = monkeypatch
        self.patch(download, 'PAUSE', .01)
        self.undo = contextlib.ExitStack()

    @functools.cached_property
    def pictures(self): # Folder of twelve
        d = self.tmp/'work'/'pets'
        d.mkdir()
        for i in range(12): (d/f'{("cat","dog")[i%2]}_{i}.jpg').write_bytes(_jpeg(i))
        return d

    @functools.cached_property
    def files(self): return get_image_files(self.pictures)

    def block(self, **kw):
        kw = dict(blocks=(ImageBlock,CategoryBlock), get_items=get_image_files, get_y=label,
                  item_tfms=Resize(32), splitter=RandomSplitter(seed=1)) | kw
        return DataBlock(**kw)

    def loaders(self, bs=4, source=None, **kw):
        return self.block(**kw).dataloaders(self.pictures if source is None else source, bs=bs, num_workers=0)

    def net(self, n_out=2): return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12,n_out))

    def new_learner(self, dls=None, **kw):
        learn = Learner(dls or self.loaders(), self.net(), path=self.work, **kw)
        learn.remove_cbs([o for o in learn.cbs if type(o).__name__=='ProgressCallback'])
        learn.logger = noop
        return learn

    @functools.cached_property
    def learn(self):
        res = self.new_learner(metrics=accuracy)
        self.before = self.state(res)
        return res

    def state(self, learn):
        "What an error must leave as it was"
        return dict(callbacks=[type(o).__name__ for o in learn.cbs], metrics=list(learn.metrics),
                    modes=[m.training for m in learn.model.modules()],
                    frozen=[p.requires_grad for p in learn.model.parameters()],
                    loss=(learn.loss_func, getattr(learn.loss_func, 'reduction', None)),
                    tfms=[len(o.after_batch.fs) for o in learn.dls.loaders], grad=torch.is_grad_enabled())

    @functools.cached_property
    def server(self): return self.undo.enter_context(FaultServer())

    def archive(self, data, name='set.zip'):
        (self.work/name).write_bytes(data)
        return untar_data(self.work/name)

    def run(self, fault):
        out,start = Outcome(),time.monotonic()
        with warnings.catch_warnings(record=True) as told, contextlib.redirect_stderr(io.StringIO()) as err, \
             contextlib.redirect_stdout(io.StringIO()) as printed:
            warnings.simplefilter('always')
            try: out.result = fault(self)
            except Exception as e: out.error = e
            except KeyboardInterrupt as e: out.error = e
        out.seconds = time.monotonic()-start
        out.said = '\n'.join([*(str(o.message) for o in told), err.getvalue(), printed.getvalue()])
        return out

    def unharmed(self):
        "What is promised of every fault"
        assert not self.ran.exists(), 'code of a file ran'
        assert {o.name for o in self.tmp.iterdir()} <= self.at_start, 'something was written outside'
        assert {o.name:o.read_text() for o in self.outside.iterdir()}=={'mine.txt':'mine'}
        assert torch.is_grad_enabled()
        assert not multiprocessing.active_children(), 'a process stays behind'
        if 'learn' in vars(self):
            now = self.state(self.learn)
            for k,v in self.before.items():
                if k!='modes': assert now[k]==v, f'{k} of the learner: {now[k]}, and not {v} as before'

    def close(self): self.undo.close()

def label(f): return f.name.split('_')[0]

class Evil:
    "A pickle of it runs code: it makes the file RAN in the folder above the current one"
    def __reduce__(self): return os.system, ('touch ../RAN',)

# ---- promises

def says(*words):
    "An error, and these words in what it says"
    def check(w, o):
        assert isinstance(o.error, Exception), f'no error, but {o.result!r}; said: {o.said}'
        lacks = [s for s in words if str(s).lower() not in o.message.lower()]
        assert not lacks, f'{lacks} is not in: {o.message}'
    return Promise('says ' + ', '.join(map(repr, words)), check)

def one_of(*words):
    "An error, and at least one of these words"
    def check(w, o):
        assert isinstance(o.error, Exception), f'no error, but {o.result!r}'
        assert any(s.lower() in o.message.lower() for s in words), o.message
    return Promise('says one of ' + ', '.join(map(repr, words)), check)

def silent_on(*words):
    "These words are nowhere in what is said"
    def check(w, o):
        found = [s for s in words if s.lower() in (o.message+o.said).lower()]
        assert not found, f'{found} is in: {o.message} {o.said}'
    return Promise('never says ' + ', '.join(map(repr, words)), check)

def is_a(kind):
    def check(w, o): assert isinstance(o.error, kind), o.message or o.result
    return Promise(f'is a {kind.__name__}', check)

def told(*words):
    "No error, but a warning or a line with these words"
    def check(w, o):
        assert o.error is None, o.message
        lacks = [s for s in words if s.lower() not in o.said.lower()]
        assert not lacks, f'{lacks} is not in: {o.said}'
    return Promise('goes on, telling ' + ', '.join(map(repr, words)), check)

def kept(*words):
    "Either refused with these words, or all right"
    def check(w, o):
        if o.error is None: return
        assert isinstance(o.error, Exception)
        lacks = [s for s in words if s.lower() not in o.message.lower()]
        assert not lacks, f'{lacks} is not in: {o.message}'
    return Promise('works, or says ' + ', '.join(map(repr, words)), check)

def gives(f, text=None):
    "No error, and `f(result)` is true"
    def check(w, o):
        assert o.error is None, o.message
        assert f(o.result), f'gave {o.result!r}'
    return Promise(text or 'gives the right result', check)

def always(f, text):
    "`f(world)` is true afterwards, whatever came"
    def check(w, o): assert f(w), f'not so: {text}'
    return Promise(text, check)

fine = gives(lambda r: True, 'works')
interrupted = is_a(KeyboardInterrupt)

def _names(folder): return sorted(o.name for o in folder.iterdir()) if folder.exists() else []

def _all_there(w, o):
    assert o.error is None, o.message
    assert (o.result/'3/a.txt').read_bytes()==b'three' and (o.result/'noise').stat().st_size==100_000
    assert 'set' in _names(w.home/'data')
arrives = Promise('arrives whole', _all_there)

def _no_trace(w, o):
    left = [n for n in _names(w.home/'data') if n not in getattr(w, 'kept_names', ())]
    assert not left, f'left in data: {left}'
    left = [n for n in _names(w.home/'archive') if not n.startswith('.') or n.endswith(('.lock','.use'))]
    assert not left, f'left in archive: {left}'
no_trace = Promise('leaves nothing half done', _no_trace)

def _inside(w, o):
    root = os.path.realpath(w.home)
    for p in w.home.rglob('*'):
        if p.is_symlink(): assert os.path.realpath(p).startswith(root+os.sep), p
inside = Promise('no link leads outside', _inside)

def _as_before(w, o):
    now = w.state(w.learn)
    for k,v in w.before.items():
        if k!='modes': assert now[k]==v, k            # each fit and each question sets them anew
    for k,v in w.weights.items(): assert torch.equal(v, w.learn.model.state_dict()[k]), k
as_before = Promise('leaves the learner as it was', _as_before)

def _usable(w, o):
    w.learn.fit(1)
    assert len(w.learn.recorder.values)==1 and torch.isfinite(w.learn.get_preds()[0]).all()
usable = Promise('the learner trains afterwards', _usable)

def stays(name, content=None):
    "A file below the cache or the working folder is there, with its content"
    def check(w, o):
        found = [p for d in (w.home,w.work) for p in d.rglob(name) if p.is_file()]
        assert found, f'{name} is gone'
        if content is not None: assert any(p.read_bytes()==content for p in found), f'{name} has changed'
    return Promise(f'{name} stays', check)

def within(seconds): return Promise(f'ends within {seconds} s', lambda w,o: None)

def grows_by(objects):
    "At most so many objects are left behind by each call"
    def check(w, o):
        assert o.error is None, o.message
        assert o.result<=objects, f'{o.result} objects stay behind each time'
    return Promise(f'leaves at most {objects} objects behind', check)

def growth(f, n=20, warm=4):
    "How many objects each call of `f` leaves behind"
    for _ in range(warm): f()
    gc.collect()
    gc.freeze()                                     # counting is quick without what was there before
    try:
        for _ in range(n): f()
        gc.collect()
        return len(gc.get_objects())/n
    finally: gc.unfreeze()

# ---- archives

def zipped(*members, **kw):
    "Bytes of a zip of (name, content) pairs; content may be `to(path)`, a link, or `mode(bits, content)`"
    buf = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buf, 'w', zipfile.ZIP_DEFLATED) as z:
        warnings.simplefilter('ignore')
        for name,o in members:
            i = zipfile.ZipInfo(name)
            i.create_system,i.compress_type = 3,zipfile.ZIP_DEFLATED
            bits,content = o if isinstance(o, tuple) else (stat.S_IFREG|0o644, o)
            i.external_attr = bits<<16
            z.writestr(i, content)
    return buf.getvalue()

def to(path): return stat.S_IFLNK|0o777, path
def mode(bits, content=b'x'): return bits, content
