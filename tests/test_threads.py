"Several threads, forked processes and tasks with one learner: each gets its own answers, or a clear refusal."
import asyncio, copy, os, pickle, signal, threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
import pytest, torch, torch.nn.functional as F
from torch import nn
from coursekit.core import *
from coursekit.callback.core import *
from coursekit.callback.progress import *
from coursekit.callback.schedule import *
from coursekit.data.load import DataLoader, TensorDataset
from coursekit.learner import *
from coursekit.metrics import accuracy

x = torch.randn(16,3, generator=torch.Generator().manual_seed(0))
y = (x[:,0]>0).long()
def learner(model=None, **kw):
    torch.manual_seed(0)
    dl = DataLoader(TensorDataset(x,y), bs=4)
    dls = SimpleNamespace(train=dl, valid=dl, device='cpu')
    return Learner(dls, model or nn.Linear(3,2), F.cross_entropy, metrics=accuracy, **kw)
def at_rest(learn):
    names = [type(o).__name__ for o in learn.cbs]
    quiet = learn.logger is print and not learn.only_validate
    return names==['TrainEvalCallback','Recorder','ProgressCallback'] and quiet

def test_each_thread_gets_its_own_answer():
    learn = learner()
    right,scores,preds = [learn.predict(o)[2] for o in x],learn.validate(),learn.get_preds()[0]
    losses = learn.get_preds(with_loss=True)[2]
    def ask(i):
        with learn.no_bar(), learn.no_logging():
            if i%16==5: return learn.validate()==scores
            if i%16==6: return torch.equal(learn.get_preds()[0], preds)
            if i%16==7: return torch.equal(learn.get_preds(with_loss=True)[2], losses)
            return torch.equal(learn.predict(x[i%16])[2], right[i%16])
    with ThreadPoolExecutor(4) as pool: assert all(pool.map(ask, range(192)))
    assert at_rest(learn)

def test_tasks_of_asyncio():
    learn = learner()
    right = [learn.predict(o)[2] for o in x]
    async def one(o):
        with learn.no_bar(), learn.no_logging():
            return (await asyncio.get_running_loop().run_in_executor(None, learn.predict, o))[2]
    async def all_of_them(): return await asyncio.gather(*map(one, x))
    with ThreadPoolExecutor(1) as pool: # the tests of the browser leave a loop running in this thread
        answers = pool.submit(asyncio.run, all_of_them()).result()
    assert all(map(torch.equal, answers, right)) and at_rest(learn)

def test_a_training_refuses_other_threads():
    "Also where it waits for them: nothing hangs"
    learn = learner()
    def ask(self):
        with ThreadPoolExecutor(1) as pool: pool.submit(self.learn.predict, x[0]).result()
    for train in (learn.fit, learn.fit_one_cycle, learn.fine_tune):
        with pytest.raises(RuntimeError, match='`predict` cannot run now: the thread .* trains'):
            with learn.no_bar(), learn.no_logging(): train(1, cbs=Callback(after_batch=ask))
    assert at_rest(learn)
    learn.predict(x[0])

def test_trainings_in_two_threads():
    learn,begun,go = learner(),threading.Event(),threading.Event()
    def wait(self):
        begun.set()
        go.wait(10)
    with ThreadPoolExecutor(1) as pool:
        with learn.no_bar(), learn.no_logging():
            first = pool.submit(learn.fit, 1, cbs=Callback(before_epoch=wait))
            begun.wait(10)
            for f in (learn.fit, learn.save, learn.load, learn.freeze_to, learn.remove_cb):
                with pytest.raises(RuntimeError, match='cannot run now'): f(1)
            go.set()
            first.result()
    assert len(learn.recorder.values)==1 and at_rest(learn)

def test_nesting_in_a_training():
    seen = []
    class Look(Callback):
        run_valid = False
        def after_batch(self): seen.append(len(self.learn.get_preds()[0]))
    learn = learner()
    with learn.no_logging(): learn.fit(1, cbs=Look)
    assert seen==[16]*4 and at_rest(learn)

def test_copies_are_free():
    learn = learner()
    with learn.turns.taken(learn, 'fit', trains=True), ThreadPoolExecutor(1) as pool:
        for other in (copy.deepcopy(learn), pickle.loads(pickle.dumps(learn))):
            assert pool.submit(other.predict, x[0]).result()[2].shape==(2,)
        with pytest.raises(RuntimeError): pool.submit(learn.predict, x[0]).result()

@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
@pytest.mark.filterwarnings('ignore')
def test_a_fork_while_another_thread_predicts():
    learn,stop = learner(),threading.Event()
    right = learn.predict(x[0])[2]
    def busy():
        while not stop.is_set(): learn.predict(x[1])
    with ThreadPoolExecutor(1) as pool:
        pool.submit(busy)
        codes = []
        for _ in range(10):
            pid = os.fork()
            if not pid:
                signal.alarm(10)
                ok = torch.equal(learn.predict(x[0])[2], right) and len(learn.validate())==2
                os._exit(0 if ok else 1)
            codes.append(os.waitpid(pid, 0)[1])
        stop.set()
    assert codes==[0]*10

@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
@pytest.mark.filterwarnings('ignore')
def test_a_fork_after_torch_has_computed_with_several_threads():
    learn,n = learner(model=nn.Sequential(nn.Unflatten(1, (3,1,1)), nn.Upsample(64), nn.Conv2d(3,16,3),
                                          nn.AdaptiveAvgPool2d(1), nn.Flatten())),torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        right = learn.predict(x[0])[2]
        pid = os.fork()
        if not pid:
            signal.alarm(10)
            os._exit(0 if torch.allclose(learn.predict(x[0])[2], right, atol=1e-5) else 1)
        assert os.waitpid(pid, 0)[1]==0
    finally: torch.set_num_threads(n)

def test_ctrl_c_while_waiting():
    learn = learner()
    held,go = threading.Event(),threading.Event()
    def hold():
        with learn.turns.taken(learn, 'predict'):
            held.set()
            go.wait(10)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(hold)
        held.wait(10)
        threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
        with pytest.raises(KeyboardInterrupt): learn.predict(x[0])
        go.set()
    learn.predict(x[0])
    assert at_rest(learn)
