"A step of training, and a prediction, with the numbers of a batch in the usual order and channels last."
import copy
import torch
from functools import partial
from .harness import Topic

bs,side = 16,128

def step(model, x):
    for p in model.parameters(): p.grad = None
    loss = model(x).square().mean()
    loss.backward()
    return loss.item()

def predict(model, x):
    with torch.no_grad(): return model(x).square().mean().item()

def topic(name, make, **goals):
    torch.manual_seed(0)
    t = Topic(f'layout-{name}', f'{name}, {bs} pictures of {side}×{side}: a step of training, a prediction')
    usual,x = make(),torch.randn(bs, 3, side, side)
    last = copy.deepcopy(usual).to(memory_format=torch.channels_last)
    t.run('train, usual order', role='bare')(partial(step, usual.train(), x))
    t.run('train, channels last', **goals)(partial(step, last.train(), x))
    frozen = copy.deepcopy(usual).eval(),copy.deepcopy(last).eval()
    t.run('predict, usual order')(partial(predict, frozen[0], x))
    t.run('predict, channels last')(partial(predict, frozen[1], x))
    return t

def network(name):
    import coursekit.vision.all as v
    return getattr(v, name, None) or getattr(v.models, name)

def topic_of(name, **goals): return lambda: topic(name, network(name), **goals)

TOPICS = {f'layout-{k}': topic_of(k, **goals) for k,goals in dict(
    efficientnet_lite0=dict(at_most=.9), mobilenet_v3_large={}, resnet50={}, resnet18={}).items()}
