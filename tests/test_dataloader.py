"Loaders where cells cannot test them: workers that die or hang, spawned processes, leaks, many kinds of data"
import gc, multiprocessing as mp, os, pickle, random, signal, subprocess, sys, time
import numpy as np, pandas as pd, pytest, torch, torch.utils.data as tud
from torch.utils.data import WeightedRandomSampler
from coursekit.data import workers
from coursekit.data.all import *
from coursekit.learner import Learner
from coursekit.vision.core import PILImage
from coursekit.vision.data import ImageDL
for _n in [n for n in globals() if n.startswith('test')]: del globals()[_n]   # pytest would collect them

def setup_module(): torch.set_num_threads(1)

def joined(batches): return torch.cat(list(batches)).tolist()

@pytest.fixture(autouse=True)
def nobody_left_behind():
    "No test may leave a worker process"
    yield
    gc.collect()
    end = time.time()+5
    while mp.active_children() and time.time()<end: time.sleep(.05)
    assert mp.active_children() == []

class Items:
    "Numbers, and random numbers from all three sources; counts how often it was asked in this process"
    def __init__(self, n=24): self.n,self.asked = n,0
    def __len__(self): return self.n
    def __getitem__(self, i):
        self.asked += 1
        return i, random.random(), float(np.random.rand()), torch.rand(2)

class Trouble(Items):
    "An item that does what it is told"
    def __init__(self, n, act, at=5):
        super().__init__(n)
        self.act,self.at = act,at
    def __getitem__(self, i):
        if i==self.at: self.act()
        return torch.tensor(i)

def die():    os.kill(os.getpid(), signal.SIGKILL)
def leave():  os._exit(3)
def hang():   time.sleep(60)
def picky():  raise Picky(1, 2)
def terse():  raise Terse('short')

class Picky(Exception):
    "An exception that pickle cannot rebuild"
    def __init__(self, a, b): super().__init__(f'{a} and {b}')

class Terse(Exception):
    "An exception that travels without its notes"
    def __reduce__(self): return Terse, self.args

class Marked(torch.Tensor): pass

def same(a, b):
    "Are all parts of all batches equal?"
    return all(torch.equal(x, y) for p,q in zip(a, b, strict=True) for x,y in zip(p, q, strict=True))

# ---- workers that fail

@pytest.mark.parametrize('act', [die, leave])
@pytest.mark.parametrize('keep', [False, True])
def test_dead_worker(act, keep):
    dl = DataLoader(Trouble(16, act), bs=2, num_workers=2, persistent_workers=keep)
    with pytest.raises(RuntimeError, match='worker process died.*num_workers=0.*smaller bs') as e: list(dl)
    assert e.value.__cause__ is not None
    dl.dataset.act = lambda: None                                   # the loader stays usable
    assert len(list(dl)) == 8
    dl.__dict__.pop('_pool', None)

def test_hanging_worker():
    t = time.time()
    dl = DataLoader(Trouble(16, hang), bs=2, num_workers=1, timeout=1)
    with pytest.raises(RuntimeError, match='died or hangs'): list(dl)
    assert time.time()-t < 15

@pytest.mark.parametrize('n', [0, 2])
def test_failing_item_is_named_in_any_process(n):
    with pytest.raises(ZeroDivisionError, match='ZeroDivisionError in item 5') as e:
        list(DataLoader(Trouble(16, lambda: 1/0), bs=2, num_workers=n))
    assert len(e.value.__notes__)==1

@pytest.mark.parametrize('n', [0, 2])
def test_an_item_that_says_stop_does_not_end_the_epoch_in_silence(n):
    with pytest.raises(RuntimeError, match='StopIteration in item 5') as e:
        list(DataLoader(Trouble(16, lambda: next(iter([]))), bs=2, num_workers=n))
    assert type(e.value.__cause__) is StopIteration
    dl = DataLoader(Items(8), bs=2, num_workers=n, create_batch=lambda b: next(iter([])))
    with pytest.raises(RuntimeError): list(dl)

def test_causes_travel():
    def act():
        try: 1/0
        except ZeroDivisionError as e: raise ValueError('no share') from e
    dl = DataLoader(Trouble(16, act), bs=2, num_workers=1)
    with pytest.raises(ValueError, match='no share\nDataLoader: ValueError in item 5') as e: list(dl)
    first = e.value.__cause__
    assert type(first) is ZeroDivisionError and 'in a worker process' in str(first.__cause__)

def test_notes_travel():
    with pytest.raises(Terse, match='short\nDataLoader: Terse in item 5'):
        list(DataLoader(Trouble(16, terse), bs=2, num_workers=1))

def test_exception_that_cannot_travel():
    with pytest.raises(RuntimeError, match='Picky: 1 and 2\nDataLoader: Picky in item 5') as e:
        list(DataLoader(Trouble(16, picky), bs=2, num_workers=1))
    assert 'in picky' in str(e.value.__cause__)                     # the traceback arrives all the same

@pytest.mark.parametrize('n', [0, 2])
def test_unequal_items_are_named_by_their_index(n):
    ds = [(torch.zeros(3, 4+(i==6)), i) for i in range(10)]
    said = r'part 0 of item 4 has shape \(3, 4\), part 0 of item 6 has shape \(3, 5\).*Resize'
    with pytest.raises(ValueError, match=said):
        list(DataLoader(ds, bs=4, num_workers=n))

def test_error_in_the_callers_loop_is_the_callers():
    with pytest.raises(RuntimeError, match='^mine$'):
        for b in DataLoader(Items(), bs=4, num_workers=2): raise RuntimeError('mine')

def test_an_exception_without_words_or_with_itself_as_cause():
    class Mute(Exception):
        def __str__(self): raise OSError('nothing to say')
    with pytest.raises(RuntimeError, match='Mute'):
        list(DataLoader(Trouble(16, lambda: (_ for _ in ()).throw(Mute())), bs=2, num_workers=1))
    def ring():
        e = ValueError('round')
        raise e from e
    with pytest.raises(ValueError, match='round\nDataLoader: ValueError in item 5'):
        list(DataLoader(Trouble(16, ring), bs=2, num_workers=1))

def interrupt(): raise KeyboardInterrupt

@pytest.mark.slow
@pytest.mark.parametrize('act', [interrupt, sys.exit])
def test_a_worker_that_leaves(act):
    "Ctrl-C that reaches only a worker, or a data set that calls `exit`"
    t = time.time()
    with pytest.raises(workers.WorkerDied, match='num_workers=0'):
        list(DataLoader(Trouble(16, act), bs=2, num_workers=1))
    assert time.time()-t<20

@pytest.mark.slow
@pytest.mark.skipif(os.name=='nt', reason='needs signals')
def test_a_stopped_worker_ends_with_the_epoch():
    "It does not listen to SIGTERM any more"
    def stop(): os.kill(os.getpid(), signal.SIGSTOP)
    t = time.time()
    with pytest.raises(workers.WorkerDied, match='or hangs'):
        list(DataLoader(Trouble(16, stop), bs=2, num_workers=1, timeout=1))
    assert time.time()-t<20

@pytest.mark.slow
def test_a_death_is_noticed_in_any_thread():
    "Only the main thread hears the system's signal"
    from concurrent.futures import ThreadPoolExecutor
    def load(): return list(DataLoader(Trouble(16, die), bs=2, num_workers=1))
    with ThreadPoolExecutor(1) as ex, pytest.raises(workers.WorkerDied, match='memory'):
        ex.submit(load).result(timeout=30)

STUCK = """
import time
from coursekit.data import workers
from coursekit.data.load import DataLoader
class Stuck:
    def __len__(self): return 8
    def __getitem__(self, i):
        if i>1: time.sleep(100)
        return i
if __name__=='__main__':
    workers.can_fork = workers.can_fork and {fork}
    it = iter(DataLoader(Stuck(), bs=2, num_workers=2))
    next(it)
    import multiprocessing
    print(*(o.pid for o in multiprocessing.active_children()), flush=True)
    next(it)
"""

@pytest.mark.skipif(os.name=='nt', reason='needs signals')
@pytest.mark.parametrize('fork,how', [(True,'SIGKILL'), *(pytest.param(*o, marks=pytest.mark.slow) for o in
                                      [(True,'SIGTERM'), (False,'SIGKILL'), (False,'SIGTERM')])])
def test_workers_end_with_a_killed_program(tmp_path, fork, how):
    "Even in the middle of an item"
    (tmp_path/'stuck.py').write_text(STUCK.format(fork=fork))
    env = {**os.environ, 'PYTHONPATH':os.pathsep.join(sys.path)}
    p = subprocess.Popen([sys.executable, 'stuck.py'], cwd=tmp_path, env=env, text=True,
                         stdout=subprocess.PIPE)
    pids = [*map(int, p.stdout.readline().split())]
    assert len(pids)==2
    p.send_signal(getattr(signal, how))
    p.wait(10)
    end = time.time()+5
    while any(map(is_alive, pids)) and time.time()<end: time.sleep(.05)
    assert not any(map(is_alive, pids))

def is_alive(pid):
    said = subprocess.run(['ps','-o','stat=','-p',str(pid)], capture_output=True, text=True).stdout.strip()
    return said[:1] not in ('','Z')

NO_GUARD = """
from coursekit.data import workers
from coursekit.data.load import DataLoader
workers.can_fork = False
print(len(list(DataLoader(list(range(20)), bs=4, num_workers=1))))
"""

@pytest.mark.slow
def test_a_script_without_main_guard(tmp_path):
    (tmp_path/'script.py').write_text(NO_GUARD)
    env = {**os.environ, 'PYTHONPATH':os.pathsep.join(sys.path)}
    r = subprocess.run([sys.executable, 'script.py'], cwd=tmp_path, env=env, capture_output=True, text=True,
                       timeout=100)
    last = r.stderr.strip().splitlines()[-1]
    assert r.returncode and "if __name__=='__main__':" in last and 'num_workers=0' in last
    assert 'memory ran out' not in last

# ---- chance

def epoch(n, **kw):
    set_seed(3)
    return list(DataLoader(Items(), bs=5, shuffle=True, num_workers=n, **kw))

def test_workers_do_not_change_the_result():
    one = epoch(1)
    assert same(one, epoch(1)) and same(one, epoch(2)) and same(one, epoch(2, persistent_workers=True))
    assert joined(b[0] for b in one)==joined(b[0] for b in epoch(0))  # the order is that of no workers

def test_no_two_items_share_their_chance_nor_two_epochs():
    set_seed(1)
    dl = DataLoader(Items(), bs=4, num_workers=2, persistent_workers=True)
    seen = [x for _ in range(3) for b in dl for x in (*b[1].tolist(), *b[2].tolist(), *b[3][:,0].tolist())]
    assert len(set(seen)) == 3*3*24

@pytest.mark.parametrize('n', [0, 1])
def test_models_dice_are_left_alone(n):
    class Plain(Items):
        def __getitem__(self, i): return i
    set_seed(9)
    expected = torch.rand(3),np.random.rand(3)
    set_seed(9)
    list(DataLoader(Plain(), bs=8, shuffle=True, num_workers=n))
    got = torch.rand(3),np.random.rand(3)
    assert torch.equal(expected[0], got[0]) and (expected[1]==got[1]).all()

def test_seed_fixes_all_epochs_whatever_else_happens():
    def orders(disturb):
        dl = DataLoader(list(range(20)), bs=20, shuffle=True, seed=4)
        for _ in range(3):
            if disturb: random.random(),torch.rand(1)
            yield next(iter(dl)).tolist()
    a,b = list(orders(False)),list(orders(True))
    assert a==b and len(set(map(tuple, a)))==3

def test_generator_is_used():
    def order():
        generator = torch.Generator().manual_seed(5)
        return joined(DataLoader(range(20), bs=20, shuffle=True, generator=generator))
    assert order()==order()!=list(range(20))

def test_every_order_is_about_equally_likely():
    dl,counts = DataLoader(range(3), bs=3, shuffle=True, seed=0),{}
    for _ in range(1200):
        o = tuple(dl.one_batch().tolist())
        counts[o] = counts.get(o,0)+1
    assert len(counts)==6 and min(counts.values())>140

# ---- processes

def test_leaving_early_and_coming_back():
    dl = DataLoader(Items(), bs=2, num_workers=2, persistent_workers=True, seed=1, shuffle=True)
    for b in dl: break
    assert len(mp.active_children())==2                             # kept on purpose,
    assert sorted(joined(b[0] for b in dl))==list(range(24))     # nothing is left over from the first loop

def test_a_loop_inside_a_loop():
    dl = DataLoader(Items(6), bs=2, num_workers=1, persistent_workers=True)
    pairs = [(a[0].tolist(), b[0].tolist()) for a in dl for b in dl]
    assert pairs == [([i,i+1],[j,j+1]) for i in (0,2,4) for j in (0,2,4)]

def test_subclasses_survive_the_journey():
    class DS(Items):
        def __getitem__(self, i): return torch.full((2,2), float(i)).as_subclass(Marked), {'name': str(i)}
    x,d = next(iter(DataLoader(DS(), bs=3, num_workers=1)))
    assert type(x) is Marked and x.shape==(3,2,2) and d=={'name': ['0','1','2']}

def test_a_worker_gets_whole_batches():
    "`before_batch`, `after_item` and `create_batch` run in the worker; `after_batch` here"
    pids = lambda b: (b, os.getpid())
    out = list(DataLoader(Items(8), bs=4, num_workers=1, after_item=lambda o: o[0],
                          before_batch=lambda b: [sum(b)], after_batch=pids, create_batch=pids))
    assert [o[0][0] for o in out] == [[6],[22]] and all(o[1]==os.getpid()!=o[0][1] for o in out)

def test_worker_init_hook():
    def wif(): os.environ['CK_TEST_WIF'] = 'yes'
    class DS(Items):
        def __getitem__(self, i): return os.environ.get('CK_TEST_WIF','no')
    assert list(DataLoader(DS(2), bs=2, num_workers=1, wif=wif)) == [['yes','yes']]
    assert 'CK_TEST_WIF' not in os.environ

@pytest.mark.skipif(sys.platform=='win32', reason='spawn is what Windows does anyway')
def test_spawned_workers(monkeypatch):
    "What macOS and Windows do: everything is pickled, and what cannot be is explained"
    dl = DataLoader(Items(8), bs=4, num_workers=1, seed=1, persistent_workers=False)
    forked = list(dl.new()) if workers.can_fork else None
    monkeypatch.setattr(workers, 'can_fork', False)
    spawned = list(dl)
    assert len(spawned)==2 and (forked is None or same(forked, spawned))
    unpicklable = AttributeError,pickle.PicklingError
    with pytest.raises(unpicklable, match='cannot start worker.*num_workers=0.*lambda'):
        list(DataLoader(Items(8), bs=4, num_workers=1, after_item=lambda o: o))

def test_interrupt_leaves_the_loader_usable():
    dl = DataLoader(Items(), bs=2, num_workers=2)
    with pytest.raises(KeyboardInterrupt):
        for b in dl: raise KeyboardInterrupt
    assert len(list(dl))==12

# ---- tensors are cut, not collected

class Spy(torch.Tensor):
    "Counts single items taken"
    taken = 0
    def __getitem__(self, i):
        if isinstance(i, int): Spy.taken += 1
        return super().__getitem__(i)

@pytest.mark.parametrize('shuffle', [False, True])
def test_no_single_item_is_touched(shuffle):
    Spy.taken = 0
    xs = torch.arange(40.).view(20,2).as_subclass(Spy)
    bs = list(DataLoader(xs, bs=8, shuffle=shuffle))
    assert Spy.taken==0 and type(bs[0]) is Spy and sorted(torch.cat(bs)[:,0].tolist())==xs[:,0].tolist()
    list(DataLoader(xs, bs=8, after_item=lambda o: o))
    assert Spy.taken==20                                            # and a hook on items is honoured

def test_a_subclass_that_makes_items_is_asked():
    class Mine(DataLoader):
        def create_item(self, i): return self.dataset[i]*10
    assert torch.equal(next(iter(Mine(torch.arange(4), bs=4))), torch.arange(4)*10)
    class Rows(TensorDataset):
        def __getitem__(self, i): return super().__getitem__(i)[0]+1
    assert torch.equal(next(iter(DataLoader(Rows(torch.zeros(4)), bs=4))), torch.ones(4))

def test_the_same_batches_from_every_source():
    xs,ys = torch.randn(50,3),torch.arange(50)
    copies = [(x.clone(), int(y)) for x,y in zip(xs, ys)]
    kinds = TensorDataset(xs, ys), list(zip(xs, ys)), copies, Pairs(xs, ys)
    orders = [dict(), dict(shuffle=True, seed=2), dict(drop_last=True)]
    orders += [dict(sampler=o) for o in ([4,9,-1,4], range(0,50,7))]
    for kw in orders:
        epochs = [list(DataLoader(ds, bs=16, **kw)) for ds in kinds]
        assert all(same(epochs[-1], o) for o in epochs[:-1])

class Pairs:
    def __init__(self, xs, ys): self.xs,self.ys = xs,ys
    def __len__(self): return len(self.xs)
    def __getitem__(self, i): return self.xs[i],self.ys[i]

def test_ragged_and_mixed_lists_are_fetched_item_by_item():
    r = torch.ones(2, requires_grad=True)
    assert next(iter(DataLoader([r, r], bs=2))).requires_grad       # gradients still flow to the items
    mixed = [torch.ones(2), np.zeros(2, dtype=np.float32)]
    assert torch.equal(next(iter(DataLoader(mixed, bs=1))), torch.ones(1,2))
    assert next(iter(DataLoader(['a','b'], bs=2))) == ['a','b']
    with torch.inference_mode(): t = torch.ones(4,2)
    assert len(list(DataLoader(t, bs=2)))==2 and len(list(DataLoader(list(t), bs=2)))==2

def test_windows_are_guarded_in_every_way():
    xs = torch.zeros(6,2)
    for ds in xs, TensorDataset(xs), list(zip(xs)), list(xs):
        with pytest.raises(RuntimeError, match='windows'):
            for b in DataLoader(ds, bs=3): (b if isinstance(b, torch.Tensor) else b[0]).add_(1)
    xs = torch.zeros(6,2)
    for b in DataLoader(list(xs), bs=3, after_batch=lambda b: b.add_(1)): assert (b==1).all()
    assert (xs==0).all()

def test_device_moves_every_part():
    b = next(iter(DataLoader([{'x': torch.ones(2), 'name': 'a'}]*3, bs=3, device='meta')))
    assert b['x'].device.type=='meta' and b['name']==['a']*3
    x,y = next(iter(DataLoader(list(zip(torch.ones(3,2), range(3))), bs=3, device='meta')))
    assert x.device.type==y.device.type=='meta'
    assert DataLoader([1]).to('cpu').device==torch.device('cpu')

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no NVIDIA card here')
def test_on_cuda():
    xs = torch.arange(64.).view(32,2)
    expected = xs.sum().item()
    for ds,n in (xs,0),(xs.cuda(),0),(Pairs(xs, xs),2):
        bs = list(DataLoader(ds, bs=8, shuffle=True, device='cuda', num_workers=n))
        bs = [b if isinstance(b, torch.Tensor) else b[0] for b in bs]
        assert all(b.is_cuda for b in bs) and sum(b.sum().item() for b in bs)==expected

def test_pickled_loader_carries_no_processes():
    dl = DataLoader(Items(), bs=4, num_workers=1, persistent_workers=True, seed=1)
    list(dl)
    dl2 = pickle.loads(pickle.dumps(dl))
    assert '_pool' not in dl2.__dict__ and len(list(dl2))==6

def test_the_order_can_be_asked_for_before_the_first_epoch():
    from coursekit.data.core import TfmdDL, TfmdLists
    dl = DataLoader(range(9), bs=3, shuffle=True, seed=3)
    assert sorted(int(i) for i in dl.get_idxs())==list(range(9)) and len(dl.get_idxs())==9
    dl = TfmdDL(TfmdLists(range(9), None), bs=3, shuffle=True, num_workers=0)
    assert sorted(dl.get_idxs())==list(range(9))

# ---- what people hand to a loader

@pytest.mark.parametrize('bs', [0, -1, 4., 'a', True, np.float32(2)])
def test_a_batch_size_is_a_whole_number(bs):
    for make in (lambda: DataLoader([1,2], bs=bs), lambda: TfmdLists([1,2], noop).dataloaders(bs=bs),
                 lambda: DataLoaders.from_dsets([1,2], bs=bs),
                 lambda: TfmdLists([1,2], noop, splits=[[0],[1]]).dataloaders(batch_size=bs)):
        assert f'bs must be a whole number of at least 1, got {bs!r}' in error_text(make)
def test_other_numbers():
    assert len(DataLoader([1,2], bs=np.int64(1)))==2
    for nm,v in dict(num_workers=-1, n=0).items():
        assert f'{nm} must be a whole number' in error_text(TfmdDL, [1,2], **{nm:v})
    dls = TfmdLists([1]*9, noop, splits=[range(5),range(5,9)]).dataloaders(batch_size=3, num_workers=0)
    assert [dl.bs for dl in dls]==[3,3], 'both names mean the same'
    assert 'got 0' in error_text(TfmdLists([1,2], noop, splits=[[0],[1]]).dataloaders, val_bs=0)

SAMPLERS = dict(list=[3,0], array=np.array([3,0]), column=pd.Series([3,0], index=[7,8]), negative=[-1,0],
                tensor=torch.tensor([3,0]), mask=np.array([True,False,False,True]))
@pytest.mark.parametrize('kind', SAMPLERS)
def test_samplers_of_any_kind(kind):
    want = [0,3] if kind=='mask' else [3,0]
    for data in list(range(4)), torch.arange(4):
        dl = DataLoader(data, bs=2, sampler=SAMPLERS[kind])
        for _ in range(2): assert joined(dl)==want
@pytest.mark.parametrize('sampler,said', [
    ([4], 'no item 4'), ([.5], 'no position'), ([True], '1 truth values for 4 items'),
    (iter([1]), 'used up after one epoch'), ([], 'the sampler gives no index')])
def test_samplers_that_are_none(sampler, said):
    assert said in error_text(lambda: list(DataLoader(range(4), sampler=sampler)))

def test_without_shuffling_all_items_come_in_their_order():
    drawn = WeightedRandomSampler([1.]*10, 50)
    for changes in (dict(sampler=drawn), dict(sampler=range(9,-1,-1)), dict(get_idxs=lambda: [3,3]),
                    dict(shuffle=True)):
        dl = DataLoader(range(10), bs=4, **changes)
        assert not dl.in_order and joined(dl.new(shuffle=False))==[*range(10)]
        assert dl.new(bs=2).sampler is dl.sampler and dl.new(range(3), shuffle=False).in_order
    assert DataLoader(range(10)).in_order and not DataLoader(range(10), bs=4, drop_last=True).in_order
    assert joined(TfmdDL(list(range(10)), sampler=[1,2], num_workers=0).new([7,8], bs=2))==[7,8]

@pytest.mark.parametrize('items,said', [
    ([torch.ones(2),torch.ones(3)], 'item 0 has shape (2,), item 1 has shape (3,)'),
    ([1,None], 'item 0 has kind number, item 1 has kind None'),
    ([None,torch.ones(1)], 'item 1 has kind tensor'), (['a',1], 'item 1 has kind number'),
    ([{'a':1},{'a':1,'b':2}], "item 0 has keys {'a'}, item 1 has keys"),
    ([{'a':1},{'a':'x'}], "part 'a' of item 1 has kind text"), ([2**70,1], 'no tensor holds the numbers')])
def test_items_that_do_not_fit_together(items, said):
    assert said in error_text(lambda: list(DataLoader(items, bs=2)))
def test_items_that_do():
    assert next(iter(DataLoader([{'x':1,'y':'a'},{'y':'b','x':2}], bs=2)))['y']==['a','b']
    assert next(iter(DataLoader([(1,None),(2,None)], bs=2)))[1]==[None,None]
    assert next(iter(DataLoader([1,2.5,np.int64(3)], bs=3))).tolist()==[1,2.5,3]

class Shrinking(Items):
    def __getitem__(self, i):
        if i>=6: raise IndexError('gone')
        return i
@pytest.mark.parametrize('data,said', [
    (pd.DataFrame({'a':[1]}), 'a table is no data set'), ({'a':1}, 'has no item number 0'),
    (None, 'None is no data set'), (Shrinking(9), 'IndexError in item 6'), ([], 'the data set is empty')])
def test_what_is_no_data_set(data, said):
    assert said in error_text(lambda: list(DataLoader(data, bs=3)))
def test_a_column_is_a_data_set():
    assert joined(DataLoader(pd.Series([5,6], index=[3,4]), bs=2))==[5,6]

# ---- loaders of torch

X,Y = torch.arange(10.)[:,None],torch.arange(10)%2
class Stream(tud.IterableDataset):
    def __iter__(self): return iter(zip(X, Y))
FOURS = tud.BatchSampler(range(10), 4, False)
THEIRS = dict(shuffled=lambda: tud.DataLoader(TensorDataset(X, Y), 4, shuffle=True),
              stream=lambda: tud.DataLoader(Stream(), 4),
              batches=lambda: tud.DataLoader(TensorDataset(X, Y), batch_sampler=FOURS))
@pytest.mark.parametrize('kind', THEIRS)
def test_loaders_of_torch_say_what_they_lack(kind):
    dls = DataLoaders(THEIRS[kind](), THEIRS[kind](), device='cpu')
    assert len(dls.one_batch()[0])==4 and dls.device==torch.device('cpu') and 'DataLoaders(train' in repr(dls)
    for nm in 'vocab','c':
        assert not hasattr(dls, nm)
        assert f"has no '{nm}'. Set it, `dls.{nm} = …`" in error_text(getattr, dls, nm)
    for nm in 'show_batch','decode','show_results':
        assert 'A `TfmdDL` has it' in error_text(getattr, dls, nm)
    for f in dls.new_empty,lambda: dls.test_dl([1]): assert 'cannot be made anew' in error_text(f)
    dls.vocab = ['a','b']
    assert dls.vocab==['a','b']
def test_fewer_loaders_than_asked_for():
    assert 'There are 1 loaders' in error_text(lambda: DataLoaders(DataLoader([1])).valid)
    assert 'There is no loader' in error_text(lambda: DataLoaders().vocab)
def test_batches_that_are_dicts(capsys):
    items = [dict(x=x, y=y) for x,y in zip(X, Y)]
    TfmdDL(items, bs=2, num_workers=0).show_batch()
    assert len(capsys.readouterr().out.splitlines())==2
    dls = DataLoaders(DataLoader(items, bs=2))
    learn = Learner(dls, torch.nn.Linear(1,2), loss_func=torch.nn.CrossEntropyLoss())
    assert "A batch is a dict, of ['x', 'y']" in error_text(learn.fit, 1)

# ---- nothing stays behind

def test_loaders_and_transforms_are_freed():
    items = [(torch.ones(3,8,8),'ab'[i%2]) for i in range(8)]
    kinds,getters = (TransformBlock,CategoryBlock),[ItemGetter(0),ItemGetter(1)]
    def made():
        block = DataBlock(kinds, getters=getters, item_tfms=lambda o: o, batch_tfms=[noop],
                          splitter=IndexSplitter([0,1]))
        dls = block.dataloaders(items, bs=2, num_workers=0)
        Learner(dls, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192,2))).get_preds()
        dls.test_dl(items).one_batch()
        dls.train.new().one_batch()
        Transform(lambda x: x)(1)
        TypeDispatch(lambda x: x)(1)
    def objects():
        gc.collect()
        return len(gc.get_objects())
    made()
    before = objects()
    for _ in range(5): made()
    assert objects()-before<10

@pytest.mark.parametrize('n', [0, 2])
def test_a_picture_that_is_skipped_takes_no_other_with_it(n):
    def picture(i):
        if i in (1,6): raise SkipItemException
        return PILImage.create(np.full((4,4,3), 20*i, np.uint8))
    dl = ImageDL(Datasets(list(range(8)), [[picture]]), bs=4, after_item=ToTensor(), num_workers=n)
    assert [b[0][:,0,0,0].tolist() for b in dl]==[[0,40,60],[80,100,140]]
