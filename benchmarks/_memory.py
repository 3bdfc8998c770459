"""A fresh process that trains and prints its memory; memory.py starts it.

By hand: `python -m benchmarks._memory coursekit resnet18`
"""
import importlib, json, os, sys

def peak(): # MB; `ru_maxrss` would count what the parent process had
    try: return next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('VmHWM'))/1024
    except (OSError, StopIteration):
        import resource
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/(2**20 if sys.platform=='darwin' else 1024)

def train(lib, work): # One epoch, in the way of that library
    import torch, torch.nn.functional as F
    from .work import N, N_VALID, linear, mnist_loss, batch_accuracy
    torch.manual_seed(0)
    if work=='linear':
        x,y = torch.rand(N+N_VALID,784),torch.randint(2,(N+N_VALID,1))
        sets,bs,model,loss,lr = [list(zip(x[:N],y[:N])),list(zip(x[N:],y[N:]))],256,linear(),mnist_loss,1.
    else: # 12 batches of 64 pictures
        x,y = torch.rand(832,3,28,28),torch.randint(2,(832,))
        items = list(zip(x,y))
        sets,bs,loss,lr = [items[:768],items[768:]],64,F.cross_entropy,1e-3
        model = importlib.import_module('coursekit.vision.models.resnet' if lib=='coursekit'
                                        else 'torchvision.models').resnet18(num_classes=2)
    if lib=='bare':
        make = torch.optim.SGD if work=='linear' else torch.optim.AdamW
        opt = make(model.parameters(), lr)
        for xb,yb in torch.utils.data.DataLoader(sets[0], batch_size=bs):
            loss(model(xb), yb).backward()
            opt.step()
            opt.zero_grad()
        model.eval()
        with torch.no_grad():
            sum(float(loss(model(xb), yb)) for xb,yb in torch.utils.data.DataLoader(sets[1], batch_size=bs))
        return
    L,D,DL,O,M = (importlib.import_module(f'{lib}.{o}')
                  for o in ('learner','data.core','data.load','optimizer','metrics'))
    learn = L.Learner(D.DataLoaders(*(DL.DataLoader(o, bs=bs, num_workers=0) for o in sets)), model,
                      loss_func=loss, lr=lr,
                      opt_func=O.SGD if work=='linear' else O.Adam,
                      metrics=batch_accuracy if work=='linear' else M.accuracy)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)

if __name__ == '__main__':
    lib,work = sys.argv[1:]
    os.environ.setdefault('MPLBACKEND', 'agg')
    for m in {'bare':['torch','torchvision','matplotlib','pandas',
                      'fastcore']}.get(lib, [f'{lib}.vision.all']):
        importlib.import_module(m)
    before = peak()
    train(lib, work)
    print(json.dumps(dict(peak=peak(), imported=before, added=peak()-before)))
