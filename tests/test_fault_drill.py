"""The fault drill: what goes wrong, and what coursekit promises then. A new promise is one row.

`python tests/test_fault_drill.py` prints the table. Of every fault it is also promised that it ends (within
ten seconds, if the row says nothing else), that nothing is written outside the cache and the current folder,
that no code in a file runs, that no process stays behind, and that a learner keeps its callbacks and loss.
Ctrl-C at any line stands in `test_interrupts.py`, killed processes in the files of what they were doing."""
import errno, gzip, io, json, os, pickle, re, shutil, signal, struct, subprocess, sys, tarfile, threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np, pandas as pd, pytest, safetensors.torch, torch
from PIL import Image
sys.path.insert(0, str(Path(__file__).parent))
from faultlib import *
from servers import check_of, tgz, linked
from coursekit.data import external
from coursekit.export import file_content
from coursekit.fetch.cache import DataError, read_stamp, write_stamp
from coursekit.sketch.registry import SKETCHES, Sketch
from coursekit.vision.all import *
for _n in [n for n in globals() if n.startswith('test')]: del globals()[_n]   # fastcore's own

ROWS = []
def group(name):
    "A function that adds rows to the table"
    def row(what, fault, *promises, seconds=10, slow=False):
        ROWS.append(Row(name, what, fault, promises, seconds, (pytest.mark.slow,) if slow else ()))
    return row

# ------------------------------------------------------------------ download
# What the server does, one behaviour for each request; the last one goes on for ever
row = group('download')

def served(*plan, body=GOOD, check=None, path='/set.tgz', again=False, **kw):
    "`untar_data` of an address of a server that behaves so"
    def fault(w):
        url,w.item = w.server.put(path, body, *plan, **kw)
        if check: w.env.setitem(external.CHECKS, url, check)
        if again:
            with pytest.raises(DataError): untar_data(url, timeout=.3)
        return untar_data(url, timeout=.3)
    return fault
def at(url): return lambda w: untar_data(url.format(port=w.server.server_port), timeout=.3)

other = tgz({'3/a.txt':b'three'}, root='set/')
page = b'<!DOCTYPE html><html>Please log in</html>'
row('no such file',               served(404), says('404', '/set.tgz', 'put it at'), no_trace)
row('forbidden',                  served(403), says('403', '/set.tgz'), no_trace)
row('gone',                       served(410), says('410', '/set.tgz'), no_trace)
row('in trouble once',            served(500, 'ok'), arrives)
row('too busy once',              served(503, 'ok'), arrives)
row('in trouble for ever',        served(500), says('500', '/set.tgz', '5 tries'), no_trace)
row('hangs up once',              served('reset', 'ok'), arrives)
row('hangs up for ever',          served('reset'), says('/set.tgz', '5 tries'), no_trace)
row('cut off once',               served('cut:50000', 'ok'), arrives,
    always(lambda w: w.item.sent==len(GOOD), 'not a byte comes twice'))
row('cut off for ever',           served('cut:50000', ranges=False), says('closed after', '5 tries'),
    no_trace)
row('cut off, later fine',        served('cut:50000', 404, 'ok', again=True), arrives)
row('silent once',                served('stall:1000', 'ok'), arrives)
row('silent for ever',            served('stall:0'), says('went silent'), no_trace)
row('another part than asked',    served('cut:50000', 'shifted:7', 'ok'), arrives)
row('no parts at all',            served('cut:50000', 'ok', ranges=False), arrives)
row('no ETag',                    served('cut:50000', 'ok', etag=''), arrives)
row('a login page',               served(body=page, ctype='text/html'), says('/set.tgz'), no_trace)
row('an empty file',              served(body=b''), says('/set.tgz'), no_trace)
row('another kind of file',       served(body=b'\x89PNG'*500), says('set.tgz'), no_trace)
row('half an archive as whole',   served(body=GOOD[:len(GOOD)//2]), says('set.tgz', 'removed'), no_trace)
row('a flipped bit, digest known', served(body=GOOD[:999]+b'?'+GOOD[1000:], check=check_of(GOOD)),
    says('/set.tgz'), no_trace)
row('another size than known',    served(body=other, check=check_of(GOOD)), says('/set.tgz'), no_trace)
row('the right digest',           served(check=check_of(GOOD)), arrives)
row('nobody listens',             at('http://127.0.0.1:1/set.tgz'),
    says('127.0.0.1:1/set.tgz', 'put it at'), no_trace)
row('a host that is not',         at('http://no-such-host.invalid/set.tgz'),
    says('no-such-host.invalid'), no_trace)
row('address without a name',     at('http://127.0.0.1/'), says('does not end in the name of a file'),
    no_trace)
row('address with ..',            at('http://127.0.0.1/%2e%2e'), says('does not end in the name of a file'),
    no_trace)
row('unknown kind of address',    at('ftp://127.0.0.1/set.tgz'), says('ftp://', 'understands'), no_trace)
row('no such archive here',       at('nowhere.zip'), says('nowhere.zip', 'no such'), no_trace)
row('no such sketch',             at('sketch://nowhere'), says('nowhere', 'pets_sketch'), no_trace)
row('letters beyond ASCII',       at('http://127.0.0.1:{port}/d\u00e4/\u00e4.tgz'), says('404'), no_trace)
row('a null byte in the name',    at('http://127.0.0.1:{port}/a%00b.tgz'),
    one_of('404','name','character'), no_trace)
row('a name of 300 letters',      at('http://127.0.0.1:{port}/'+'a'*300+'.tgz'),
    one_of('404','name','long'), no_trace)
row('a password in the address',  at('http://joe:sEcret@127.0.0.1:1/set.tgz'),
    says('127.0.0.1:1/set.tgz'), silent_on('sEcret'), no_trace)

# ------------------------------------------------------------------ archive
# What the archive holds
row = group('archive')
def zip_of(*members): return lambda w: w.archive(zipped(*members))
def tar_of(**members): return lambda w: w.archive(tgz(members), 'set.tgz')
def raw(data, name='set.tgz'): return lambda w: w.archive(data, name)
def pax(payload): return tar_header('x', len(payload), b'x') + payload + bytes(-len(payload)%512)
def tar_header(name, size, kind=b'0'):
    t = tarfile.TarInfo(name)
    t.size,t.type = size,kind
    return t.tobuf(tarfile.USTAR_FORMAT)
def flipped(b, i): return b[:i] + bytes([b[i]^64]) + b[i+1:] # One bit
FILE = tar_header('t/a', 1) + b'x' + bytes(511)
def tarred(*blocks): return gzip.compress(b''.join(blocks) + bytes(1024), 1)
def device(kind):
    def change(m): m.type,m.devmajor,m.devminor = kind,1,3
    return change

for name in '/etc/passwd', '../up', 'a/../../up', r'..\up', r'C:\x', '//host/x':
    row(f'zip, a file {name}', zip_of((name,'x'), ('t/a','x')), says('set.zip', 'member'), no_trace)
    row(f'tar, a file {name}', tar_of(**{name:b'x', 't/a':b'x'}), says('set.tgz', 'member'), no_trace)
LINKS = dict(absolute='/etc/passwd', climbing='../../x', upwards='../..', backslash=r'..\..\x')
for name,target in LINKS.items():
    row(f'zip, {name} link', zip_of(('t/a','x'), ('t/l', to(target))), says('set.zip', 'link'), no_trace)
    row(f'tar, {name} link', tar_of(**{'t/a':b'x', 't/l':linked(target)}), says('set.tgz', 'link'), no_trace)
row('two links in a ring',        zip_of(('t/a','x'), ('t/l', to('m')), ('t/m', to('l'))),
    says('set.zip', 'link'), no_trace)
row('a link to itself',           zip_of(('t/a','x'), ('t/l', to('l'))), says('set.zip', 'link'), no_trace)
row('a link to a folder above',   zip_of(('t/a/b','x'), ('t/a/l', to('..'))),
    says('set.zip', 'link'), no_trace)
row('a file through a link',      zip_of(('t/d/a','x'), ('t/l', to('d')), ('t/l/evil','x')),
    kept('set.zip'), inside)
BY_TOP = ('set/a/b/c','x'), ('set/t', to('a/b')), ('set/l', to('../set/t/../../../../outside'))
row('a link out by the top name', zip_of(*BY_TOP), kept('link'), inside)
HARD = linked('../../outside/mine.txt', tarfile.LNKTYPE)
row('a hard link out',            tar_of(**{'t/a':b'x', 't/l':HARD}), says('set.tgz'), no_trace)
row('a device',                   tar_of(**{'t/a':b'x', 't/null':device(tarfile.CHRTYPE)}),
    kept('set.tgz'), inside)
row('a pipe',                     tar_of(**{'t/a':b'x', 't/pipe':device(tarfile.FIFOTYPE)}),
    kept('set.tgz'), inside)
row('set-user-id bits',           zip_of(('t/a', mode(0o104777))),
    gives(lambda p: not (p/'a').stat().st_mode & 0o7022, 'the bits are dropped'))
row('one file twice',             zip_of(('t/a','1'), ('t/a','2')),
    gives(lambda p: (p/'a').read_text()=='2', 'the later one counts'))
row('a file that is also a folder', zip_of(('t/a','x'), ('t/a/b','x')), says('set.zip'), no_trace)
row('nothing',                    zip_of(), says('set.zip'), no_trace)
row('only folders',               zip_of(('t/',''), ('t/u/','')), says('set.zip'), no_trace)
row('an empty tar',               raw(gzip.compress(bytes(10240))), says('set.tgz'), no_trace)
row('no archive',                 raw(b'hello '*100), says('set.tgz', 'archive'), no_trace)
row('an empty file',              raw(b''), says('set.tgz'), no_trace)
row('half a tar',                 raw(GOOD[:len(GOOD)//2]), says('set.tgz'), no_trace)
row('half a zip',                 raw(zipped(('t/a', os.urandom(9999)))[:5000], 'set.zip'),
    says('set.zip'), no_trace)
row('a flipped bit in a zip',     raw(flipped(zipped(('t/a', os.urandom(9999))), 700), 'set.zip'),
    says('set.zip'), no_trace)
row('a zip called .tgz',          raw(zipped(('t/a','x'))),
    gives(lambda p: (p/'a').exists(), 'is unpacked as what it is'))
row('a very deep path',           zip_of(('d/'*5000+'a','x')), says('set.zip'), no_trace)
row('a very long name',           zip_of(('t/'+'n'*5000,'x')), says('set.zip'), no_trace)
row('a name with a line break',   zip_of(('t/a\nb','x')), kept('set.zip'), inside)
row('a gigabyte of zeros',        raw(gzip.compress(tar_header('t/a', 2**30) + bytes(2**26), 6)),
    says('set.tgz'), no_trace)
row('a header of digits',         raw(tarred(pax(b'0'*1_600_000), FILE)), kept('set.tgz'), inside, seconds=3)
row('a header of 8 GB',           raw(tarred(tar_header('x', 8**11-1, b'x'), b'1'*512)),
    says('set.tgz'), no_trace, seconds=3)
row('3,000 headers for one file', raw(tarred(*[pax(b'12 path=t/a\n')]*3000, FILE)),
    kept('set.tgz'), inside, seconds=3)
row('a long name of 5 MB',        raw(tarred(tar_header('L', 5_120_000, b'L'), b'a'*5_120_000, FILE)),
    says('set.tgz'), no_trace, seconds=3)
row('a good one',                 zip_of(('t/a','x'), ('t/l', to('a'))),
    gives(lambda p: (p/'a').read_text()=='x', 'is unpacked'), inside)

# ------------------------------------------------------------------ cache
# What happens to the folder of data, or while it is filled
row = group('cache')
DOTS = 'dots_sketch'
def dots(w, draw, url=None):
    "`untar_data` of a sketch that `draw` draws"
    w.env.setitem(SKETCHES, DOTS, Sketch(DOTS, draw, 'dots', version='1'))
    return untar_data(f'sketch://{DOTS}')
def good_dots(dest, **kw): (dest/'a.txt').write_text('dots')
def drawing(after=None):
    def draw(dest, **kw):
        good_dots(dest)
        if after: raise after
    return lambda w: dots(w, draw)
def full(path='x'): return OSError(errno.ENOSPC, 'No space left on device', path)
def cached(then): # A folder that is there, then `then(w, folder)`, then the call again
    def fault(w):
        folder = dots(w, good_dots)
        then(w, folder)
        return dots(w, good_dots)
    return fault
def home(path):
    def fault(w):
        w.env.setenv('COURSEKIT_HOME', path.format(w=w))
        return dots(w, good_dots)
    return fault
def mine(w, folder):
    (folder/'models').mkdir()
    (folder/'models'/'mine.pth').write_bytes(b'weights')
    (folder/'notes.txt').write_bytes(b'notes')
def older(w, folder):
    mine(w, folder)
    write_stamp(folder, **{**read_stamp(folder), 'version':'0'})
def forced(w, folder):
    mine(w, folder)
    untar_data(f'sketch://{DOTS}', force_download=True)
def refuse_below(w, folder):
    "The operating system says no below `folder` (root may do everything, so it is asked first)"
    makedirs,real = os.mkdir,os.open
    def no(p): return isinstance(p, (str,Path)) and str(p).startswith(str(folder))
    def mkdir(p, *a, **k):
        if no(p): raise PermissionError(errno.EACCES, 'Permission denied', str(p))
        return makedirs(p, *a, **k)
    def open_(p, flags, *a, **k):
        if no(p) and flags & (os.O_CREAT|os.O_WRONLY|os.O_RDWR):
            raise PermissionError(errno.EACCES, 'Permission denied', str(p))
        return real(p, flags, *a, **k)
    w.patch(os, 'mkdir', mkdir)
    w.patch(os, 'open', open_)
def theirs(w):
    refuse_below(w, w.home)
    return dots(w, good_dots)
def by_hand(w):
    (w.home/'data'/DOTS).mkdir(parents=True)
    (w.home/'data'/DOTS/'own.txt').write_bytes(b'own')
    return dots(w, good_dots)

row('Ctrl-C while drawing',       drawing(KeyboardInterrupt()), interrupted, no_trace)
row('the disk is full',           drawing(full()), says('disk is full', 'COURSEKIT_HOME'), no_trace)
row('the generator fails',        drawing(ValueError('no ink')), says('no ink'), no_trace)
row('no memory',                  drawing(MemoryError()), says('MemoryError'), no_trace)
row('nothing is drawn',           lambda w: dots(w, lambda dest, **kw: None), says(DOTS), no_trace)
row('the cache is a file',        lambda w: (w.home.write_text('x'), dots(w, good_dots))[1],
    says(DOTS, 'COURSEKIT_HOME'))
row('the cache is another user\'s', theirs, says('COURSEKIT_HOME'), no_trace)
row('a file is where the folder goes', cached(lambda w,d: (shutil.rmtree(d), d.write_text('x'))),
    says(DOTS, 'move it away'))
row('the folder is gone',         cached(lambda w,d: shutil.rmtree(d)), stays('a.txt', b'dots'), fine)
row('the folder was put there',   by_hand, stays('own.txt', b'own'), fine)
row('the stamp is no JSON',       cached(lambda w,d: d.with_name(f'.{DOTS}.json').write_text('{')),
    stays('a.txt', b'dots'), fine)
row('the stamp is a list',        cached(lambda w,d: d.with_name(f'.{DOTS}.json').write_text('[1]')),
    stays('a.txt', b'dots'), fine)
row('another address, same name', cached(lambda w,d: write_stamp(d, url='http://x/y.tgz')),
    says('http://x/y.tgz', 'data='))
row('drawn anew, weights in it',  cached(older), stays('mine.pth', b'weights'),
    stays('notes.txt', b'notes'), fine)
row('forced, weights in it',      cached(forced), stays('mine.pth', b'weights'),
    stays('notes.txt', b'notes'), fine)
def anew_but(error):
    def fault(w):
        older(w, dots(w, good_dots))
        return drawing(error)(w)
    return fault
row('anew, but Ctrl-C',           anew_but(KeyboardInterrupt()), interrupted, stays('a.txt', b'dots'),
    stays('mine.pth', b'weights'))
def beside(make): # Something that lies in the cache before
    def fault(w):
        (w.home/'data').mkdir(parents=True)
        make(w.home/'data')
        return dots(w, good_dots)
    return fault
def folder_with_a_like_name(data):
    (data/f'{DOTS}.old').mkdir()
    (data/f'{DOTS}.old'/'own.txt').write_bytes(b'own')
row('a lock that a dead process left', beside(lambda d: (d/f'.{DOTS}.lock').write_text('')), fine, seconds=2)
row('another folder of like name', beside(folder_with_a_like_name), fine, stays('own.txt', b'own'))

def refreshed_archive(w):
    data = zipped(('photos/a.txt','x'))
    folder = w.archive(data, 'photos.zip')
    mine(w, folder)
    os.utime(w.work/'photos.zip', (1,1))
    return untar_data(w.work/'photos.zip')
row('an archive touched, weights in the folder', refreshed_archive, stays('mine.pth', b'weights'),
    stays('notes.txt', b'notes'), fine)
def deleted_meanwhile(w):
    def draw(dest, **kw):
        good_dots(dest)
        shutil.rmtree(w.home)
    return dots(w, draw)
row('the cache is deleted meanwhile', deleted_meanwhile, says(DOTS), silent_on('.tmp-'))
def without_home(w):
    w.env.delenv('COURSEKIT_HOME')
    w.env.delenv('HOME')
    w.patch('pwd.getpwuid', lambda *a: (_ for _ in ()).throw(KeyError('uid')))
    return dots(w, good_dots)
row('no home folder',             without_home, says('COURSEKIT_HOME'))
row('an unknown user as home',    home('~no_such_user/x'), kept('COURSEKIT_HOME'))
def in_threads(w):
    calls,lock = [],threading.Lock()
    def draw(dest, **kw):
        with lock: calls.append(1)
        time.sleep(.2)
        good_dots(dest)
    with ThreadPoolExecutor(4) as ex: list(ex.map(lambda _: dots(w, draw), range(4)))
    return len(calls)
row('four threads at once',       in_threads, gives(lambda n: n==1, 'is drawn once'))

# ------------------------------------------------------------------ training
# What is raised, and where; then what becomes of the learner
row = group('training')
class Raise(Callback):
    "Raises `error` at the second time of an event"
    order = 55
    def __init__(self, ev, error):
        self.n = 0
        def f():
            self.n += 1
            if self.n==2 or ev in ('before_fit','after_fit'): raise error
        setattr(self, ev, f)
def fit_with(ev, error): return lambda w: fit(w, cbs=Raise(ev, error))
def fit(w, n=3, **kw):
    learn = w.learn
    w.weights = weights_of(learn.model)
    learn.fit(n, **kw)
    return learn
EVENTS = '''before_fit before_epoch before_train before_batch after_pred after_loss before_backward
    before_step after_step after_batch after_train before_validate after_validate after_epoch
    after_fit'''.split()
for ev in EVENTS:
    row(f'Ctrl-C in {ev}',        fit_with(ev, KeyboardInterrupt()), interrupted, usable)
    row(f'an error in {ev}',      fit_with(ev, ValueError('oh')), says('oh', 'callback `Raise`', ev), usable)
def with_learner(f):
    def fault(w):
        w.weights = weights_of(w.learn.model)
        return f(w, w.learn)
    return fault
def asked(f, *promises, what, **kw): row(what, with_learner(f), *promises, **kw)
asked(lambda w,l: l.fit(1, lr='x'),            says('lr', "'x'"), as_before, usable, what='a rate of text')
asked(lambda w,l: l.fit(1, lr=-1.),            says('lr', '-1'), as_before, usable, what='a negative rate')
asked(lambda w,l: l.fit(1, lr=float('nan')),   says('lr', 'nan'), as_before, usable, what='a rate of NaN')
asked(lambda w,l: l.fit(1, wd='x'), says('wd', "'x'"), as_before, usable, what='weight decay of text')
asked(lambda w,l: l.fit(1, wd=-1.), says('wd', '-1'), as_before, usable, what='negative weight decay')
asked(lambda w,l: l.fit(1, cbs='csv'),         says('callback', 'csv'),
    as_before, usable, what='a text for a callback')
asked(lambda w,l: l.fit(1, cbs=[Raise('before_fit', KeyError('a')), CSVLogger()]),
    says('callback `Raise`'), as_before, usable, what='the first of two callbacks fails')
asked(lambda w,l: l.get_preds(dl=5),           one_of('DataLoader','loader','int'),
    as_before, usable, what='a number for a loader')
asked(lambda w,l: l.predict('nowhere.jpg'),    says('nowhere.jpg'), as_before,
    usable, what='a picture that is not there')
asked(lambda w,l: l.predict(None),             one_of('None'), as_before, usable, what='None for a picture')
asked(lambda w,l: l.get_preds(ds_idx=7),       one_of('7','ds_idx'), as_before,
    usable, what='data set 7 of 2')
asked(lambda w,l: l.load('nowhere'),           says('nowhere', 'Saved there'),
    as_before, usable, what='weights that are not there')
asked(lambda w,l: l.freeze_to(99),             one_of('99','group'), as_before,
    usable, what='parameter group 99')

def no_more_memory(w):
    class Hungry(nn.Linear):
        def forward(self, x): raise RuntimeError("can't allocate memory: you tried to allocate 9 bytes")
    return Learner(w.loaders(), Hungry(1, 1), path=w.work).fit(1)
row('no more memory',             no_more_memory, says('bs=2', 'memory'))
def wrong_outputs(w): return Learner(w.loaders(), w.net(1), path=w.work).fit(1)
row('fewer outputs than classes', wrong_outputs, says('targets go from 0 to 1', '1 outputs'))
def class_for_loss(loss): return lambda w: w.new_learner(loss_func=loss).fit(1)
row('a class for a loss, of torch', class_for_loss(nn.CrossEntropyLoss), says('CrossEntropyLoss()'))
row('a loss without gradient',    lambda w: w.new_learner(loss_func=accuracy).fit(1),
    says('gradient', 'accuracy'))
def broken_picture(damage):
    def fault(w):
        f = w.pictures/'cat_0.jpg'
        f.write_bytes(damage(f.read_bytes()))
        try: w.learn.get_preds(dl=w.learn.dls.test_dl(get_image_files(w.pictures)))
        finally:
            assert verify_images(get_image_files(w.pictures))==[f]
            f.unlink()
            w.learn.dls = w.loaders()
    return fault
row('a picture that is a page',   broken_picture(lambda b: page), says('cat_0.jpg', 'verify_images'),
    silent_on('unlink', 'rm '), usable)
row('a picture that is empty',    broken_picture(lambda b: b''), says('cat_0.jpg', 'verify_images'), usable)
row('half a picture',             broken_picture(lambda b: b[:len(b)//2]),
    says('cat_0.jpg', 'verify_images'), usable)
class Kill(Callback):
    def after_batch(self):
        if self.epoch==2 and self.training and self.iter==1: os.kill(os.getpid(), signal.SIGINT)
row('Ctrl-C from the keyboard',   lambda w: w.learn.fit(200, cbs=Kill()),
    interrupted, always(lambda w: len(w.learn.recorder.values)==2, 'the table so far is kept'), usable)
def save_fails(error, cb):
    def fault(w):
        learn = w.learn
        w.before = w.state(learn)
        def save(*a, **k): raise error
        w.patch(learn, 'save', save, raising=False)
        learn.fit(2, cbs=cb())
        return learn
    return fault
trained = gives(lambda l: len(l.recorder.values)==2, 'training goes on to the end')
row('the best model, disk full',  save_fails(full('m'), lambda: SaveModelCallback(every_epoch=True)),
    trained, told('No space left'))
row('the best model, no memory',  save_fails(MemoryError(), lambda: SaveModelCallback(every_epoch=True)),
    trained, told('MemoryError'))
class FullFile:
    "A file of which only the first piece still finds room"
    written = 0
    def __init__(self, f): self.f = f
    def __getattr__(self, k): return getattr(self.f, k)
    def __enter__(self): return self
    def __exit__(self, *a): self.f.close()
    def write(self, s):
        self.__class__.written += 1
        if FullFile.written>1: raise full('history.csv')
        return self.f.write(s)
def csv_fails(w):
    real = open
    FullFile.written = 0
    def open_(f, mode='r', *a, **k):
        h = real(f, mode, *a, **k)
        return FullFile(h) if str(f).endswith('.csv') and mode[0] in 'wa' else h
    w.patch('builtins.open', open_)
    w.learn.fit(2, cbs=CSVLogger())
    return w.learn
row('the history, disk full',     csv_fails, trained, told('No space left'))

def fit_args(**kw): return with_learner(lambda w,l: l.fit(**(dict(n_epoch=1) | kw)))
for k,v in dict(text='2', negative=-1, fraction=1.5).items():
    row(f'a number of epochs: {k}', fit_args(n_epoch=v), says('n_epoch'), as_before, usable)
for cb in SaveModelCallback, EarlyStoppingCallback, ReduceLROnPlateau:
    row(f'{cb.__name__} of an unknown metric',
        with_learner(lambda w,l, cb=cb: l.fit(1, cbs=cb(monitor='nowhere'))),
        says('nowhere', 'valid_loss'), as_before, usable)
def metric(p, t): raise ValueError('no such score')
row('a metric that fails',        lambda w: w.new_learner(metrics=metric).fit(1),
    says('no such score', 'metric'))
def bad_loss(value): return lambda w: w.new_learner(loss_func=lambda p,t: value(p)).fit(1)
row('a loss of several numbers',  bad_loss(lambda p: p.sum(1)), says('shape', 'mean'))
row('a loss of text',             bad_loss(lambda p: 'x'), one_of('loss', 'str'))
class Silent(nn.Linear):
    def forward(self, x): return None
row('a model that gives None',    lambda w: Learner(w.loaders(), Silent(1,1), path=w.work).fit(1),
    says('None'))
row('an optimizer of text',       lambda w: w.new_learner(opt_func='adam').fit(1), says('opt_func', 'adam'))
row('a splitter of text',         lambda w: w.new_learner(splitter='x').fit(1), says('splitter'))
row('a folder of pictures for the loaders', lambda w: Learner(w.pictures, w.net()), says('dls'))
row('an architecture for the model', lambda w: Learner(w.loaders(), resnet18), says('resnet18()'))
def history_is_a_folder(w, l):
    (w.work/'history.csv').mkdir()
    return l.fit(1, cbs=CSVLogger())
row('the history is a folder',    with_learner(history_is_a_folder), says('history.csv', 'fname'),
    as_before, usable)
def history_without_header(w, l):
    (w.work/'history.csv').write_text('1,2,3')
    return l.fit(1, cbs=CSVLogger(append=True))
row('the history has no header',  with_learner(history_without_header),
    always(lambda w: any('epoch' in o.read_text() for o in w.work.glob('*.csv')), 'a header is there'),
    stays('history.csv'), usable)

# 192 questions from four threads
def four_threads(w):
    learn,fs = w.learn,list(w.files)
    right = {f:learn.predict(f)[2] for f in fs}
    def ask(f): return torch.allclose(learn.predict(f)[2], right[f], atol=1e-5)
    with ThreadPoolExecutor(4) as ex: return sum(ex.map(ask, fs*16))
row('192 questions from four threads', four_threads, gives(lambda n: n==192, '192 right answers'))

# ------------------------------------------------------------------ loading
# What the file of weights holds
row = group('loading')
def weights(content, name='x.pth', job=lambda l: l.load('x')):
    "Load a file of this content; a function of the learner may make it"
    def fault(w):
        w.weights = weights_of(w.learn.model)
        f = w.work/'models'/name
        f.parent.mkdir(exist_ok=True)
        o = content(w) if callable(content) else content
        if isinstance(o, bytes): f.write_bytes(o)
        else: torch.save(o, f)
        return job(w.learn)
    return fault
def saved(end): # The bytes of a good file
    def make(w): return Path(w.learn.save(f'good{end}')).read_bytes()
    return make
def changed(end, change): return lambda w: change(saved(end)(w))
def state_dict(change):
    def make(w):
        d = weights_of(w.learn.model)
        change(d)
        return d
    return make
def header(text): return len(text).to_bytes(8,'little') + text
damaged = dict(empty=b'', one_byte=b'x', page=page, zeros=bytes(1000), zip_junk=b'PK\3\4'+bytes(60),
               text=b'hello world '*50)
for k,b in damaged.items():
    row(f'{k}, .pth',         weights(b), says('x.pth'), is_a(RuntimeError), silent_on('\x1b['), as_before,
        usable)
    row(f'{k}, .safetensors', weights(b, 'x.safetensors'), says('x.safetensors'), is_a(RuntimeError),
        silent_on('\x1b['), as_before, usable)
for end in '.pth','.safetensors':
    row(f'half a {end}',      weights(changed(end, lambda b: b[:len(b)//2]), f'x{end}'),
        says(f'x{end}'), is_a(RuntimeError), as_before)
    row(f'a bit more, {end}', weights(changed(end, lambda b: b+b'more'), f'x{end}'), kept(f'x{end}'))
row('code, .pth',             weights(lambda w: Evil()), says('x.pth', 'could run code'), as_before)
row('code among weights',     weights(state_dict(lambda d: d.update(evil=Evil()))),
    says('x.pth', 'could run code'), as_before)
row('a header that promises 2^60 bytes', weights((2**60).to_bytes(8,'little')+b'{}', 'x.safetensors'),
    says('x.safetensors'), as_before)
row('a header nested 100,000 deep',      weights(header(b'{"a":'*100_000), 'x.safetensors'),
    says('x.safetensors'), as_before)
row('a header that is no JSON',          weights(header(b'{no'), 'x.safetensors'),
    says('x.safetensors'), as_before)
ODD = dict(list=[1,2], tensor=torch.ones(3), number=5, none=None, text='x', number_keys={1:torch.ones(2)},
           nothing={}, tuple=(1,2), bad_model={'model':5,'opt':None}, texts={'a':'b'})
for k,o in ODD.items():
    row(f'a .pth of {k}',     weights(lambda w, o=o: o), says('x.pth'), is_a(RuntimeError), as_before, usable)
row('a weight is missing',    weights(state_dict(lambda d: d.pop('2.bias'))),
    says('x.pth', 'missing in the file', '2.bias'), as_before)
row('a weight too many',      weights(state_dict(lambda d: d.update(more=torch.ones(1)))),
    says('x.pth', 'not in the model', 'more'), as_before)
row('another shape',          weights(state_dict(lambda d: d.update({'2.bias':torch.ones(3)}))),
    says('x.pth', 'other shapes', '2.bias'), as_before)
row('a text for a weight',    weights(state_dict(lambda d: d.update({'2.bias':'x'}))),
    says('x.pth', '2.bias'), as_before)
def late_bit(w): return changed('.safetensors', lambda b: flipped(b, len(b)-6))(w)
row('a flipped bit in a weight', weights(late_bit, 'x.safetensors'), says('x.safetensors'), as_before)
def nan(d): d['2.bias'][0] = float('nan')
row('NaN in a weight',        weights(state_dict(nan)), told('nan'))
for k,f in {'on no device':lambda v: v.to('meta'), 'sparse':Tensor.to_sparse}.items():
    row(f'weights {k}',       weights(state_dict(lambda d, f=f: d.update({'2.bias':f(d['2.bias'])}))),
        says('x.pth', 'without numbers, or sparse: 2.bias'), is_a(RuntimeError), as_before, usable)
row('complex weights',        weights(state_dict(lambda d: d.update({'2.bias':d['2.bias']+1j}))),
    says('x.pth', 'other kinds of numbers: 2.bias'), as_before, usable)
row('a .pth that unpacks to 10 MB', weights(lambda w: zipped(('x/data.pkl',b'\x80\x02}.'), ('x/version','3'),
    ('x/data/0',bytes(10**7)))), says('x.pth', 'unpack to'), as_before, seconds=4)
def file_for_folder(w, l):
    (w.work/'models').write_text('mine')
    return l.save('x')
row('a file where the folder goes', with_learner(file_for_folder),
    says('models is no folder', 'x.safetensors'))
def folder_for_weights(w, l):
    (w.work/'models'/'x.pth').mkdir(parents=True)
    return l.load('x')
row('a folder of that name',  with_learner(folder_for_weights), says('x.pth'), as_before)
row('good ones',              weights(saved('.pth')), fine, as_before, usable)

PRETRAINED = 'resnet18-f37072fd.pth'
def pretrained(content):
    def fault(w):
        def offline(*a, **k): raise OSError('offline')
        w.patch('socket.create_connection', offline)
        f = Path(torch.hub.get_dir())/'checkpoints'/PRETRAINED
        f.parent.mkdir(parents=True)
        if isinstance(content, bytes): f.write_bytes(content)
        else: torch.save(content, f)
        return vision_learner(w.loaders(), resnet18)
    return fault
row('pretrained: code',       pretrained(Evil()), says(PRETRAINED))
row('pretrained: other weights', pretrained({'conv1.weight':torch.ones(64,3,7,7)}), says(PRETRAINED))
row('pretrained: empty',      pretrained(b''), says(PRETRAINED))
row('pretrained: a page',     pretrained(page), says(PRETRAINED))

# ------------------------------------------------------------------ export
# What a file that `load_learner` is to open holds
row = group('export')
def exported(content, name='x.safetensors', **kw):
    "Load such a file; a function of the world may make it"
    def fault(w):
        o = content(w) if callable(content) else content
        if isinstance(o, bytes): (w.work/name).write_bytes(o)
        return load_learner(w.work/name, **kw)
    return fault
def good_export(w): return Path(w.learn.export('good')).read_bytes()
def parts_of(content): # Tensors and description
    n = int.from_bytes(content[:8], 'little')
    return safetensors.torch.load(content),json.loads(json.loads(content[8:8+n])['__metadata__']['coursekit'])
def forged(change, where=1): # With right digests: a change of the description, or (0) of the tensors
    def make(w):
        both = parts_of(good_export(w))
        change(both[where])
        return b''.join(file_content(*both))
    return make
def described_as(**kw): return forged(lambda d: d.update(kw))
def with_head(change): # The header, as text, after `change`
    def make(w):
        content = good_export(w)
        n = int.from_bytes(content[:8], 'little')
        return header(change(content[8:8+n]))+content[8+n:]
    return make
def torch_saved(o):
    buf = io.BytesIO()
    torch.save(o, buf)
    return buf.getvalue()
def deep(n, d):
    for _ in range(n): d = {'layers':[['0',d]]}
    return d
def body_of(arch): return {'make':'vision_body', 'with':{'arch':arch}}
def linear(n): return {'layers':[['2',{'make':'nn.Linear', 'with':{'in_features':n, 'out_features':n}}]]}
refused = is_a(ExportError)
def link_to(target):
    def make(w): (w.work/'x.safetensors').symlink_to(target)
    return make

row('a good one',                 exported(good_export), fine)
row('one through a link',         exported(lambda w: link_to(w.learn.export('good'))(w)), fine)
row('a pickle of torch',          exported(torch_saved(Evil())), refused,
    says('x.safetensors', 'pickle', 'trust=True'))
row('a plain pickle',             exported(pickle.dumps(Evil()), 'x.pkl'), refused,
    says('x.pkl', 'pickle', 'trust=True'))
row('a pickle of the oldest kind', exported(pickle.dumps(Evil(), 0), 'x.pkl'), refused, says('x.pkl'))
row('a pickle behind a header',   exported(header(b'{}')+pickle.dumps(Evil())), refused, says('weights only'))
row('weights of `learn.save`',    exported(lambda w: Path(w.learn.save('x')).read_bytes()), refused,
    says('weights only', 'learn.load'))
row('an empty one',               exported(b''), refused, says('x.safetensors', 'empty'))
row('a page',                     exported(page), refused, says('not a file that `learn.export`'))
row('half of one',                exported(lambda w: good_export(w)[:-100]), refused, says('cut off'))
row('half a header',              exported(lambda w: good_export(w)[:200]), refused, says('cut off'))
row('a bit more',                 exported(lambda w: good_export(w)+b'more'),
    refused, says('4 bytes at its end'))
row('another digest of the numbers', exported(lambda w: flipped(good_export(w), -6%len(good_export(w)))),
    refused, says('numbers have changed', 'digest'))
row('another digest of the description', exported(with_head(lambda b: b.replace(b'error', b'bravo')
    .replace(b'cat', b'cow'))), refused, says('description has changed', 'digest'))
row('a header of 2^60 bytes',     exported((2**60).to_bytes(8, 'little')+b'{}'),
    refused, says('header promises'))
row('a header of 20 MB',          exported(header(b'{'+b' '*20_000_000+b'}')),
    refused, says('header promises'))
row('a header nested 100,000 deep', exported(header(b'{"a":'*100_000)), refused, says('nested without end'))
row('a header that is no JSON',   exported(header(b'{no')), refused, says('not JSON'))
row('a name twice in the header', exported(with_head(lambda b: b'{"2.bias":1,'+b[1:])),
    refused, says('twice'))
row('a later format',             exported(described_as(format=99, coursekit='9.9')), refused,
    says('format is 99', '9.9', 'pip install -U'))
row('no format',                  exported(described_as(format='new')), refused, says('which format'))
row('a tensor is missing',        exported(forged(lambda t: t.pop('2.bias'), 0)), refused,
    says("'2.bias'", 'missing'))
row('a tensor too many',          exported(forged(lambda t: t.update(more=torch.ones(1)), 0)), refused,
    says('has no tensor', 'more'))
row('a tensor of a path outside', exported(forged(lambda t: t.update({'../../outside/x':torch.ones(1)}), 0)),
    refused, says('has no tensor', '../../outside/x'))
row('a tensor of another shape',  exported(forged(lambda t: t.update({'2.bias':torch.ones(3)}), 0)), refused,
    says("'2.bias'", '[3]', '[2]'))
row('nan in a tensor',            exported(forged(lambda t: t['2.bias'].fill_(float('nan')), 0)), refused,
    says("'2.bias'", 'nan'))
row('os.system for a layer',      exported(described_as(model={'make':'os.system', 'args':['touch ../RAN']})),
    refused, says('os.system'))
row('os.system for a network',    exported(described_as(model=body_of({'name':'os.system'}))), refused,
    says('os.system'))
row('a function for a network',   exported(described_as(model=body_of({'name':'accuracy'}))), refused,
    says('accuracy', 'no architecture'))
row('a network of a path outside', exported(described_as(model=body_of('local-dir:../../outside'))), refused,
    says('fetched from elsewhere'))
row('a network from the net',     exported(described_as(model=body_of('hf-hub:evil/model'))), refused,
    says('fetched from elsewhere'))
row('a model that is none',       exported(described_as(model=3)), refused, says('model'))
row('layers nested 100 deep',     exported(described_as(model=deep(100, {'make':'nn.ReLU'}))), refused,
    says('more than 60 deep'))
row('30,000 layers',           exported(described_as(model={'layers':[['0',{'make':'nn.ReLU'}]]*30_000})),
    refused, says('more than 20,000'))
row('a layer of 10^14 weights',   exported(described_as(model=linear(10**7))),
    refused, says("'2.bias'", 'shape'))
row('nonsense for the data',      exported(described_as(data={'loader':'os'})),
    refused, says('makes no sense'))
row('a part too many',            exported(described_as(run='me')), refused, says('run'))
row('a link that leads nowhere',  exported(link_to('nowhere')), refused, says('link', 'x.safetensors'))
row('a link to itself',           exported(link_to('x.safetensors')), refused, says('link', 'x.safetensors'))
row('a link to a device',         exported(link_to('/dev/zero')), refused, says('device', 'x.safetensors'))
row('a link to a text',           exported(link_to('../outside/mine.txt')), refused,
    says('not a file that `learn.export`'))
row('a folder of that name',      exported(lambda w: (w.work/'x.safetensors').mkdir()),
    refused, says('folder'))
row('no file of that name',       exported(lambda w: None), is_a(FileNotFoundError), says('x.safetensors'))
def export_to_full(w):
    def full(*a): raise OSError(errno.ENOSPC, 'No space left on device')
    before = good_export(w)
    w.patch(os, 'fsync', full)
    with pytest.raises(OSError, match='good.safetensors'): w.learn.export('good')
    return (w.work/'good.safetensors').read_bytes()==before
row('a full disk while writing',  export_to_full, gives(lambda same: same, 'says so, and the old file stays'))

# ------------------------------------------------------------------ content
# What people bring: pictures, labels, tables, arguments
row = group('content')
def picture(content, name='cat_0.jpg', ask=lambda w,f: PILImage.create(f)):
    def fault(w):
        f = w.work/name
        if isinstance(content, bytes): f.write_bytes(content)
        else: content(f)
        return ask(w, f)
    return fault
def image(mode='RGB', size=(40,30), **kw): return lambda f: Image.new(mode, size).save(f, **kw)
POSTSCRIPT = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(../RAN) (w) file closefile showpage\n%%EOF\n'
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>alert(1)</script></svg>'
JPEG = (lambda b: (Image.new('RGB',(40,30)).save(b,'jpeg'), b.getvalue())[1])(io.BytesIO())
BROKEN = dict(empty=b'', a_page=page, half=JPEG[:len(JPEG)//2], text=b'hello', zeros=bytes(999), svg=SVG)
for k,b in BROKEN.items():
    row(f'a picture: {k}',    picture(b), says('cat_0.jpg'))
row('a picture: postscript', picture(POSTSCRIPT), says('cat_0.jpg'))
row('postscript, .eps',       picture(POSTSCRIPT, 'cat_0.eps'), says('cat_0.eps'))
row('a picture of 9,400² pixels', picture(image('RGB', (9400,9400)), 'big.png'),
    kept('big.png', 'pixel'), seconds=15, slow=True)
def webp(w,h): # Only the header
    bits = struct.pack('<I', (w-1) | (h-1)<<14)
    return b'RIFF\x24\0\0\0WEBPVP8L\x10\0\0\0/' + bits + bytes(20)
row('a WebP of 16,384² pixels', picture(webp(16384,16384), 'big.webp'),
    says('big.webp', 'more pixels'), silent_on('verify_images'))
def with_loops(w):
    for o in ('a','b'): (w.pictures/o).symlink_to('.')
    (w.pictures/'up').symlink_to('..')
    return get_image_files(w.pictures)
row('links to folders above',     with_loops, gives(lambda r: len(r)==12, 'finds each picture once'),
    seconds=3)
row('bytes that are no picture', lambda w: PILImage.create(b'hello'), one_of('picture','image','bytes'))
for m in 'L LA RGBA P CMYK I;16 1'.split():
    row(f'a picture of mode {m}', picture(image(m), 'a.tif' if m=='CMYK' else 'a.png'),
        gives(lambda im: im.mode=='RGB' and im.size==(40,30), 'becomes RGB'))
def lying(n): # Red on the left; how a camera that was turned notes it
    def save(f):
        a = np.zeros((40,120,3),'uint8')
        a[:,:30,0] = 255
        im = Image.fromarray(a)
        note = im.getexif()
        note[274] = n
        im.save(f, exif=note)
    return save
def one_way(w, f):
    ways = [PILImage.create(o) for o in (f, str(f), f.read_bytes(), Image.open(f))]
    return [o.size for o in ways]
row('a photo on its side, opened in four ways', picture(lying(6), ask=one_way),
    gives(lambda s: set(s)=={(40,120)}, 'stands upright in all'))
def all_files(w, f): return verify_images([f, *w.files])
row('verify_images finds the broken one', picture(b'nope', ask=all_files),
    gives(lambda r: [o.name for o in r]==['cat_0.jpg'], 'finds it alone'))
def as_type(change):
    def fault(w):
        names = pd.Series([str(f) for f in w.files])
        kinds = names.map(lambda f: Path(f).name[:3])
        dls = ImageDataLoaders.from_lists(w.pictures, change(names), change(kinds), item_tfms=Resize(32),
                                          num_workers=0)
        return len(dls.train_ds)+len(dls.valid_ds),list(dls.vocab)
    return fault
TYPES = dict(list=list, tuple=tuple, array=np.array, Series=lambda o: o, Index=pd.Index, iterator=iter)
for k,f in TYPES.items():
    row(f'names and labels as {k}', as_type(f), gives(lambda r: r==(12,['cat','dog']), 'are lists'))

def shows(dls):
    dls.show_batch()
    plt.gcf().canvas.draw()
    return ' '.join(t.get_text() for ax in plt.gcf().axes for t in [ax.title, *ax.texts])
def labelled(*names):
    def kind(f): return names[int(f.stem.split('_')[1])%len(names)]
    return lambda w: shows(w.loaders(get_y=kind, bs=8))
row('labels that a figure could read as formulas', labelled('$x^$', 'a_b$'),
    gives(lambda t: '$' in t.replace('\\$','$'), 'are shown as they are'))
row('labels of 2,000 letters',    labelled('x'*2000, 'y'*2000), gives(bool, 'are shown'))
row('labels beyond ASCII',        labelled('H\u00fchnchen', '\u4e2d\u6587'), gives(bool, 'are shown'))
def csv(text, enc='utf-8'):
    def fault(w):
        names = [f.name for f in w.files]
        (w.work/'t.csv').write_bytes(text(names).encode(enc))
        dls = ImageDataLoaders.from_csv(w.work, 't.csv', folder='pets', item_tfms=Resize(32),
                                        num_workers=0, bs=4)
        [*dls.train, *dls.valid]
        return list(dls.vocab)
    return fault
def lines(head='name,label', kind='dog{}', sep=','):
    return lambda names: '\n'.join([head, *(f'{n}{sep}{kind.format(i%2)}' for i,n in enumerate(names))])
row('csv: fine',                  csv(lines()), gives(lambda v: v==['dog0','dog1'], 'gives its labels'))
row('csv: with a byte order mark', csv(lambda n: '\ufeff'+lines()(n)),
    gives(lambda v: v==['dog0','dog1'], 'gives its labels'))
row('csv: in Latin-1',            csv(lines(kind='H\u00fchner{}'), 'latin-1'), one_of('encoding', 'utf-8'))
row('csv: semicolons',            csv(lines('name;label', sep=';')), one_of('column', ';', 'delim', 'sep'))
row('csv: empty',                 csv(lambda n: ''), says('t.csv'))
row('csv: only a header',         csv(lambda n: 'name,label'), one_of('no items', 'empty', 'nothing'))
row('csv: not there',             lambda w: ImageDataLoaders.from_csv(w.work, 'nowhere.csv'),
    says('nowhere.csv'))
row('csv: padded labels',         csv(lines(kind=' dog{} ')), kept('dog'))
def table(change, **kw): # A table of pictures and labels, changed
    def fault(w):
        df = pd.DataFrame(dict(name=[str(f) for f in w.files], kind=[f.name[:3] for f in w.files]))
        df = change(df)
        kw_ = dict(fn_col='name', label_col='kind', item_tfms=Resize(32), num_workers=0, bs=4, seed=1) | kw
        dls = ImageDataLoaders.from_df(df, '/', **kw_)
        [*dls.train, *dls.valid]
        return dls
    return fault
row('a table without the column', table(lambda d: d.drop(columns='kind')), says('kind'))
row('an empty table',         table(lambda d: d[:0]), one_of('no items','empty','nothing'))
row('a label that is missing', table(lambda d: d.assign(kind=[None,*d.kind[1:]])),
    one_of('None','missing','nan'))
row('files that are missing', table(lambda d: d.assign(name='/nowhere/'+d.name)), says('nowhere'))
row('numbers for labels',     table(lambda d: d.assign(kind=np.linspace(0,1,len(d)))),
    says('RegressionBlock'))
row('commas in numbers',      table(lambda d: d.assign(kind='0,5'), y_block=RegressionBlock()), says('0,5'))
row('a markup label',         table(lambda d: d.assign(kind=['<script>alert(1)</script>','$x^$']*6)),
    gives(lambda d: '$x^$' in list(d.vocab), 'is kept'))
row('a blank label',          table(lambda d: d.assign(kind=[' ','dog']*6)), kept('blank'))
for k,bad in dict(text='4', zero=0, negative=-1, fraction=2.5).items():
    row(f'a batch size: {k}', lambda w, bad=bad: w.loaders(bs=bad), says('bs'))
row('a folder that is not there', lambda w: w.loaders(source=w.work/'nowhere'), says('nowhere', 'no folder'))
row('an empty folder',        lambda w: ((w.work/'none').mkdir(), w.loaders(source=w.work/'none')),
    says('found nothing', 'none'))
def empty(make):
    def fault(w):
        (w.work/'none').mkdir()
        return make(w.work/'none')
    return fault
row('an empty folder, from_folder', empty(lambda d: ImageDataLoaders.from_folder(d, valid_pct=.2)),
    one_of('found nothing', 'no items'))
def by_name(d): return ImageDataLoaders.from_name_func(d, get_image_files(d), str.isupper)
row('an empty folder, from_name_func', empty(by_name), one_of('found nothing', 'no items'))
PATTERN = r'(.+)-\d+.png$'
row('a pattern that matches nothing', lambda w: w.loaders(get_y=using_attr(RegexLabeller(PATTERN), 'name')),
    says('does not match', '.jpg', PATTERN))
row('nothing to train on',    lambda w: w.loaders(splitter=RandomSplitter(1.)), says('training set is empty'))
def summary(w):
    try: w.block(item_tfms=None).summary(w.pictures)
    except Exception: pass
row('a summary of unequal pictures', summary, told('unequal shapes'))
for k,v in dict(two=2, negative=-.1, text='0.2', nan=float('nan')).items():
    row(f'a share for validation: {k}',
        lambda w, v=v: ImageDataLoaders.from_path_func(w.pictures, w.files, label, valid_pct=v),
        says('valid_pct'))
for k,v in dict(zero=0, negative=-5, text='x', fraction=1.5, three=(1,2,3)).items():
    row(f'a side for Resize: {k}', lambda w, v=v: w.loaders(item_tfms=Resize(v)).one_batch(), says('size='))
row('a side of a million for Resize', lambda w: w.loaders(item_tfms=Resize(10**6)).one_batch(), says('pixel'))
row('a split beyond the end',     lambda w: w.loaders(splitter=IndexSplitter([99])), says('99'))
row('a block that is no block',   lambda w: w.loaders(blocks=(ImageBlock,'x')), says('block', "'x'"))
row('a split that is no pair',    lambda w: w.loaders(splitter=lambda o: [0,1,2]), one_of('split'))
row('a labeller that fails',      lambda w: w.loaders(get_y=lambda f: 1/0), says('division', '.jpg'))
row('a labeller that gives None', lambda w: w.loaders(get_y=lambda f: None), one_of('None'))
row('a labeller that gives a list', lambda w: w.loaders(get_y=lambda f: ['a','b']),
    says('MultiCategoryBlock'))
row('a transform that is a class', lambda w: w.loaders(item_tfms=Resize).one_batch(), says('Resize'))
row('statistics of four channels',
    lambda w: w.loaders(batch_tfms=Normalize.from_stats([.5]*4,[.5]*4)).one_batch(),
    says('Normalize', '4', '3'))
row('a deviation of zero',
    lambda w: w.loaders(batch_tfms=Normalize.from_stats([.5]*3,[.5,0,.5])).one_batch(),
    says('std'))
row('a misspelt argument',    lambda w: ImageDataLoaders.from_folder(w.pictures, valid_pc=.2),
    says('valid_pc', 'valid_pct'))
row('pictures of unequal size', lambda w: w.loaders(item_tfms=None).one_batch(), says('unequal', 'Resize'))
row('labels of all pictures alike', lambda w: w.loaders(get_y=lambda f: 'pet'),
    told('one and the same label'))
row('a label only in validation', lambda w: w.loaders(get_y=lambda f: f.name, splitter=IndexSplitter([0])),
    says('vocab', '.jpg'))
row('an array of no pixels',  with_learner(lambda w,l: l.predict(np.zeros((0,0,3),'uint8'))),
    one_of('pixel','empty','size'), as_before)
row('an array of floats to 229', with_learner(lambda w,l: l.predict(np.full((40,40,3),229.))),
    says('229'), as_before)

# ------------------------------------------------------------------ growth
# What is done again and again; how much of it stays behind
row = group('growth')
def again(f, n=20): return lambda w: growth(lambda: f(w), n)
def pets(w):
    return ImageDataLoaders.from_path_func(w.pictures, w.files, label, item_tfms=Resize(32), bs=4,
                                           num_workers=0)
def failing(w):
    with pytest.raises(Exception): w.learn.predict('nowhere.jpg')
row('60 ImageDataLoaders',    again(pets, 60), grows_by(2))
row('400 ImageDataLoaders',   again(pets, 400), grows_by(1), seconds=120, slow=True)
row('learners',               again(lambda w: w.new_learner()), grows_by(2))
row('predictions',            again(lambda w: w.learn.predict(w.files[0])), grows_by(1))
row('trainings',              again(lambda w: w.learn.fit(1), 10), grows_by(2))
row('all predictions',        again(lambda w: w.learn.get_preds(), 10), grows_by(2))
row('errors',                 again(failing), grows_by(1))
row('test loaders',           again(lambda w: w.learn.dls.test_dl(w.files)), grows_by(1))
row('saves',                  again(lambda w: w.learn.save('a')), grows_by(1),
    always(lambda w: {o.stem for o in (w.work/'models').iterdir()}=={'a'}, 'no other file is left'))
row('data that is there',
    lambda w: (dots(w, good_dots), growth(lambda: untar_data(f'sketch://{DOTS}')))[1],
    grows_by(1))

SAVES = """
import sys
from coursekit.saving import save_atomic
for i in range(int(sys.argv[2])): save_atomic({'x':i}, f'models/{sys.argv[1]}_{i}.pth')
"""
def four_processes(n):
    def fault(w):
        env = {**os.environ, 'PYTHONPATH':os.pathsep.join(sys.path)}
        cmd = [sys.executable, '-c', SAVES]
        def start(i):
            return subprocess.Popen([*cmd,str(i),str(n)], env=env, stderr=subprocess.PIPE, text=True)
        ps = [start(i) for i in range(4)]
        said = [p.communicate()[1] for p in ps]
        assert not any(p.returncode for p in ps), said
        want = {f'{i}_{k}.pth' for i in range(4) for k in range(n)}
        return want=={o.name for o in (w.work/'models').iterdir()}
    return fault
row('4 processes × 300 saves into one folder', four_processes(300),
    gives(bool, 'all arrive, and nothing else'), seconds=120, slow=True)

# ------------------------------------------------------------------ the drill
@pytest.fixture
def world(tmp_path, monkeypatch):
    w = World(tmp_path, monkeypatch)
    yield w
    w.close()
    plt.close('all')

@pytest.mark.parametrize('row', [pytest.param(o, id=o.id, marks=o.marks) for o in ROWS])
def test_fault(row, world):
    if any(p is as_before or p is usable for p in row.promises): world.learn
    out = world.run(row.fault)
    world.env.undo()
    for p in row.promises: p.check(world, out)
    world.unharmed()
    assert out.seconds<row.seconds, f'took {out.seconds:.1f} s'

def test_the_table_is_whole():
    ids = [o.id for o in ROWS]
    assert len(set(ids))==len(ids)>=120 and all(o.promises for o in ROWS)
    groups = 'download','archive','cache','training','loading','export','content','growth'
    assert tuple(dict.fromkeys(o.group for o in ROWS))==groups

def test_security_md_names_what_exists(root):
    "Each promise in SECURITY.md is held by a row or a file of tests"
    table = (root/'SECURITY.md').read_text(encoding='utf-8').split('## Not trusted')[1].split('## Known')[0]
    cells = [l.split('|')[-2] for l in table.strip().splitlines()[2:]]
    names = [re.findall('`(.+?)`', o) for o in cells]
    known = {o.id for o in ROWS} | {o.name for o in (root/'tests').glob('test_*.py')}
    assert all(names) and not {o for ns in names for o in ns}-known

if __name__=='__main__':
    for o in ROWS: print(f'{o.id:60} {"; ".join(p.text for p in o.promises)}')
