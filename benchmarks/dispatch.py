"What dispatch costs (lesson 11): a call by type, a pipeline over an item, an operation on a semantic tensor."
import torch
from .harness import Topic

N = 2000 # calls in one go

def _tfm(Transform):
    class Add(Transform):
        def encodes(self, x:int): return x+1
        def encodes(self, x:str): return x+'!'
        def decodes(self, x:int): return x-1
    return Add

def _libs():
    import coursekit.transform as ct, coursekit.torch_core as cc, fastai.vision.all as fa
    return {'coursekit':(ct.Transform,ct.Pipeline,cc.TensorImage),
            'fastai':(fa.Transform,fa.Pipeline,fa.TensorImage)}

def _equal(rs): assert len(set(map(str, rs.values())))==1, rs

def calls():
    t = Topic('dispatch', f'{N:,} transforms of an item (1, "a"): "bare" are two isinstance', seconds=5)
    @t.run('bare: isinstance', role='bare')
    def _():
        for _ in range(N):
            r = tuple(x+1 if isinstance(x, int) else x+'!' if isinstance(x, str) else x for x in (1,'a'))
        return r
    for k,(T,_,_) in _libs().items():
        def f(tfm=_tfm(T)()):
            for _ in range(N): r = tfm((1,'a'))
            return r
        t.run(k, **dict(role='fastai') if k=='fastai' else dict(faster=1.5))(f)
    t.same(_equal)
    return t

def pipelines():
    t = Topic('pipeline', f'{N//4:,} items (1, "a") through four transforms and back', seconds=5)
    for k,(T,P,_) in _libs().items():
        A = _tfm(T)
        def f(p=P([A(),A(),A(),A()])):
            for _ in range(N//4): r = p.decode(p((1,'a')))
            return r
        t.run(k, **dict(role='fastai') if k=='fastai' else dict(faster=1.5))(f)
    t.same(_equal)
    return t

def tensors():
    from torchvision import tv_tensors
    t = Topic('semantic-tensor', f'{N:,} times (x*2).flip(-1) on 3 × 8 × 8; tv_tensors forget their type',
              seconds=5)
    x = torch.rand(3,8,8)
    kinds = {'bare: Tensor':x, 'tv_tensors':tv_tensors.Image(x), **{k: I(x) for k,(_,_,I) in _libs().items()}}
    for k,o in kinds.items():
        def f(o=o):
            for _ in range(N): r = (o*2).flip(-1)
            return float(r.sum())
        t.run(k, **{'bare: Tensor':dict(role='bare'), 'fastai':dict(role='fastai'),
                    'coursekit':dict(faster=1)}.get(k, {}))(f)
    t.same(_equal)
    return t

TOPICS = {'dispatch':calls, 'pipeline':pipelines, 'semantic-tensor':tensors}
