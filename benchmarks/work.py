"What several topics share: digits, their loss and metric, and loaders of all three kinds, on the CPU."
import functools, torch
from torch import nn
N,N_VALID,BS = 12_396,2_038,256          # sizes of MNIST_SAMPLE

@functools.cache
def digits(): # x, y, valid x, valid y
    "Two kinds of pictures with as many pixels as real digits: time does not depend on what they show"
    g = torch.Generator().manual_seed(0)
    n = N+N_VALID
    y = torch.randint(2, (n,1), generator=g)
    kinds = torch.rand(2, 784, generator=g)
    x = (kinds[y[:,0]]+torch.rand(n, 784, generator=g))/2
    return x[:N],y[:N],x[N:],y[N:]

def mnist_loss(preds, targs):
    preds = preds.sigmoid()
    return torch.where(targs==1, 1-preds, preds).mean()
def batch_accuracy(preds, targs): return ((preds>0) == (targs==1)).float().mean()

def seeded(make):
    torch.manual_seed(0)
    return make()
def linear(): return nn.Linear(784, 1)
def simple_net(): return nn.Sequential(nn.Linear(784,30), nn.ReLU(), nn.Linear(30,1))

def slices(x, y): # The least that one can do
    for i in range(0, len(x), BS): yield x[i:i+BS],y[i:i+BS]
def shuffled_slices(x, y):
    idx = torch.randperm(len(x))
    for i in range(0, len(x), BS):
        j = idx[i:i+BS]
        yield x[j],y[j]

class Slices:
    "A loader of bare slices, which can be gone through again"
    def __init__(self, x, y, shuffle=False): self.args,self.f = (x,y),shuffled_slices if shuffle else slices
    def __iter__(self): return self.f(*self.args)

def loaders(valid=False, shuffle=False): # {'bare', 'torch', 'coursekit', 'fastai'}: loaders of the same items
    import coursekit.data.load as ck, fastai.data.load as fa
    x,y = digits()[2:] if valid else digits()[:2]
    dset = list(zip(x,y))
    return dict(bare=Slices(x, y, shuffle),
                torch=torch.utils.data.DataLoader(dset, batch_size=BS, shuffle=shuffle),
                coursekit=ck.DataLoader(dset, bs=BS, shuffle=shuffle),
                fastai=fa.DataLoader(dset, bs=BS, shuffle=shuffle, num_workers=0))

def flat(model): return torch.cat([p.detach().flatten() for p in model.parameters()]).clone()
def all_close(results, tol=1e-4):
    "Assert that all contestants ended with the same weights"
    (n0,r0),*rest = results.items()
    for n,r in rest:
        gap = (r0-r).abs().max()
        assert torch.allclose(r0, r, atol=tol), \
            f'{n} and {n0} did not do the same work: weights differ by {gap:.3g}'
