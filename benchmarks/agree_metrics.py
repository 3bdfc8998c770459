"""Do metrics equal fastai's? Both are fed the same outputs and targets in the same uneven batches.

The topic stops if a value differs by more than 1e-6 (of itself, if above 1: fastai keeps the smooth loss in
32 bits).
"""
from types import SimpleNamespace
import numpy as np, torch
from .harness import agreement

def data(): # Outputs and targets: three classes, two classes, several labels, numbers, masks
    g = torch.Generator().manual_seed(0)
    def randn(*s): return torch.randn(*s, generator=g)
    y3,y2 = torch.randint(0,3,(101,), generator=g),torch.randint(0,2,(101,), generator=g)
    return dict(three=(randn(101,3)+2*torch.eye(3)[y3],y3), two=(randn(101,2)+torch.eye(2)[y2],y2),
                many=(randn(101,4),(randn(101,4)>0).float()),
                numbers=(randn(101,1),randn(101,1)),
                masks=(randn(21,2,8,8),torch.randint(0,2,(21,8,8), generator=g)))

def values(m, mk, loss, smooth): # A module of metrics, what makes a metric of a function, and two classes
    res,sets = {},data()
    made = dict(three=[m.accuracy, m.error_rate, m.RocAuc(), m.BalancedAccuracy(), m.CohenKappa(),
                       m.MatthewsCorrCoef(), m.HammingLoss(), m.FBeta(2, average='macro'),
                       *(f(average='macro') for f in (m.F1Score, m.Precision, m.Recall, m.Jaccard))],
                two=[m.F1Score(), m.Precision(), m.Recall(), m.Jaccard(), m.FBeta(0.5), m.BrierScore(),
                     m.RocAucBinary(), m.APScoreBinary()],
                many=[m.accuracy_multi, m.F1ScoreMulti(), m.PrecisionMulti(), m.RecallMulti(),
                      m.JaccardMulti(), m.FBetaMulti(2), m.RocAucMulti(), m.APScoreMulti(),
                      m.HammingLossMulti()],
                numbers=[m.mse, m.mae, m.rmse, m.exp_rmspe, m.R2Score(), m.ExplainedVariance(),
                         m.PearsonCorrCoef(), m.SpearmanCorrCoef()],
                masks=[m.Dice(), m.JaccardCoeff(), m.DiceMulti(), m.JaccardCoeffMulti()])
    for kind,ms in made.items():
        for o in ms:
            o = mk(o)
            o.reset()
            for p,t in zip(sets[kind][0].split(16), sets[kind][1].split(16)):
                o.accumulate(SimpleNamespace(pred=p, y=t, yb=(t,), xb=(p,), to_detach=lambda o: o.detach()))
            res[f'{kind} {o.name.lstrip("_")}'] = np.array(float(o.value))
    p,t = sets['three']
    res['top_k_accuracy'] = np.array(float(m.top_k_accuracy(p, t, k=2)))
    # of one batch: over several, fastai weighs by items, and coursekit by the pixels that count
    res['foreground_acc'] = np.array(float(m.foreground_acc(*sets['masks'])))
    res['msle'] = np.array(float(m.msle(p.abs(), p.square())))
    for name,o in (('loss',loss()),('smooth loss',smooth()),('perplexity',m.Perplexity())):
        o.reset()
        for b in p.repeat(4,1).split(16):
            o.accumulate(SimpleNamespace(loss=b.pow(2).mean(), pred=b, yb=(b,),
                                         to_detach=lambda o: o.detach()))
        res[name] = np.array(float(o.value))
    return res

def agree():
    import fastai.metrics as fm, fastai.learner as fl
    import coursekit.metrics as cm
    return agreement('agree-metrics', 'metrics, equal to 1e-6', 1e-6,
                     lambda: values(cm, cm.mk_metric, cm.AvgLoss, cm.AvgSmoothLoss),
                     lambda: values(fm, fl.mk_metric, fl.AvgLoss, fl.AvgSmoothLoss), seconds=1)

TOPICS = {'agree-metrics': agree}
