"""Widgets in JupyterLab that need a network: the cleaner of labels, and the sliders of lessons that train"""
import ast, re
import pytest
from coursekit.course.notebooks import read_nb, source
from labs import EXPLORE, ROOT, move_controls, ran, shot, until
from labs import lab, lessons_folder  # noqa: F401 (fixtures)

# The cleaner of labels, in a notebook of a few tiny pictures

CLEANER = """
import tempfile
from coursekit.vision.all import *
root,tints = Path(tempfile.mkdtemp()),{'blue <b>':2, 'green':1, 'red':0}
rng = np.random.default_rng(0)
for kind,channel in tints.items():
    (root/kind).mkdir()
    for i in range(8):
        px = rng.integers(0, 90, (24,32,3), dtype='uint8')
        px[...,channel] += 150
        Image.fromarray(px).save(root/kind/f'{i} & more.png')
block = DataBlock((ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label,
                  splitter=IndexSplitter(range(0, 24, 3)), item_tfms=Resize(16))
dls = block.dataloaders(root, bs=8)
set_seed(0)
learn = Learner(dls, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)))
with learn.no_bar(): cleaner = ImageClassifierCleaner(learn, opts=['yellow'], max_n=4)
cleaner
""","""
def told(i): return '/'.join(cleaner.fns[i].parts[-2:])
print('changed', sorted((told(i),c) for i,c in cleaner.change()))
print('deleted', [told(i) for i in cleaner.delete()])
"""

class CleanerCell:
    "What a reader sees and does in the cell of the cleaner"
    def __init__(self, cell): self.cell = cell
    def menus(self): return self.cell.locator('.widget-dropdown select')
    def choose(self, k, label): self.menus().nth(k).select_option(label=label)
    def view(self, kind, split): # Choose class and split, and wait for the pictures
        self.choose(0, kind)
        self.choose(1, split)
        first = 8*['blue <b>','green','red'].index(kind)        # every third file is for validation
        wanted = {f'{kind}/{i} & more.png' for i in range(8) if ((first+i)%3==0)==(split=='Valid')}
        def is_shown(): # the browser brings text, menus and pictures up to date in any order
            n = re.search(re.escape(f'{kind}, {split}: 1–')+r'(\d+)', self.cell.inner_text())
            return n and {*self.names()}<=wanted and len(self.names())==len(self.marks())==int(n[1])
        until(is_shown, 60, f'{kind} in {split} is shown')
        return self.names()
    def names(self): # Class and file of each picture in view
        titles = self.cell.locator('.widget-html div[title]').evaluate_all('es => es.map(e => e.title)')
        return ['/'.join(o.split('\n')[0].split('/')[-2:]) for o in titles]
    def marks(self): # What the menus under the pictures say
        chosen = self.menus().evaluate_all('es => es.map(e => e.selectedOptions[0]?.text ?? "")')
        return [o.replace('\xa0', ' ') for o in chosen[2:]]

def test_labels_are_cleaned_by_hand(lab, browser, lessons_folder):
    "Marks made in the browser are there after another class and split, and Python reads them"
    nb = ran(lab, browser, lessons_folder, 'cleaner', *(o.strip() for o in CLEANER), height=1100)
    page = nb.page
    cleaner = CleanerCell(nb.cell(0))
    until(lambda: len(cleaner.marks())==4, 60, 'four pictures are shown')
    first = cleaner.view('red', 'Train')
    cleaner.choose(2, 'blue <b>')
    cleaner.choose(3, '<Delete>')
    until(lambda: cleaner.cell.get_by_text('2 of these 4 marked').count(), 60, 'both marks are counted')
    shot(page, 'cleaner')
    other = cleaner.view('blue <b>', 'Valid')
    until(lambda: {*cleaner.marks()}=={'<Keep>'}, 60, 'nothing is marked here')
    cleaner.choose(2, 'yellow')
    assert cleaner.view('red', 'Train')==first
    marks = ['blue <b>','<Delete>','<Keep>','<Keep>']
    until(lambda: cleaner.marks()==marks, 60, 'the marks are there')
    cleaner.cell.get_by_role('button', name='less bad').click()
    until(lambda: len(cleaner.marks())==2 and not {*cleaner.names()} & {*first}, 60, 'the rest is shown')
    pixels = cleaner.cell.locator('.widget-image, .jupyter-widgets img').first.evaluate('i => i.naturalWidth')
    assert pixels>=32
    nb.run(1)
    text = nb.cell(1).locator('.jp-OutputArea-output').inner_text()
    changed = sorted([(other[0],'yellow'), (first[0],'blue <b>')])
    assert text.split('\n')[:2]==[f'changed {changed}', f'deleted {[first[1]]}']
    page.close()

# The widgets of lessons that train for minutes: their cells and those that they need run, without training

# (a new head answers 0 for every class, and no slider would change its picture: it gets random weights)

NO_TRAINING = """
from coursekit.vision.all import *
def not_trained(self, *args, **kwargs):
    set_seed(0)
    with torch.no_grad():
        for p in self.model[-1].parameters(): p.normal_(std=0.1)
for method in ('fit','fit_one_cycle','fit_flat_cos','fine_tune'): setattr(Learner, method, not_trained)
"""

class WithoutChecks(ast.NodeTransformer):
    "A network that is not trained passes none"
    def visit_Assert(self, node): return ast.Pass()
    def visit_Expr(self, node):
        f = getattr(node.value, 'func', None)
        return ast.Pass() if getattr(f, 'id', '').startswith('test_') else node

def parsed(src): # A cell
    src = re.sub(r'^[%!].*$', '', src, flags=re.M)
    return WithoutChecks().visit(ast.parse(src))

def names(src): # Of a cell: what it defines, and what it uses
    tree,inner = parsed(src),(ast.FunctionDef,ast.ClassDef,ast.Lambda)
    def own(node): # The node and what is below it, but not what stands inside of functions
        yield node
        for o in ast.iter_child_nodes(node) if not isinstance(node, inner) else (): yield from own(o)
    nodes = list(own(tree))
    defined = {o.id for o in nodes if isinstance(o, ast.Name) and isinstance(o.ctx, ast.Store)}
    defined |= {o.name for o in nodes if isinstance(o, inner[:2])}
    imported = [a for o in nodes if isinstance(o, (ast.Import,ast.ImportFrom)) for a in o.names]
    defined |= {(a.asname or a.name).split('.')[0] for a in imported}
    used = [o for o in ast.walk(tree) if isinstance(o, ast.Name) and isinstance(o.ctx, ast.Load)]
    return defined,{o.id for o in used}

def needed_by(sources, i): # Positions of cells
    "Cell `i`, and the cells above it that define, directly or not, what it uses"
    res,wanted = [i],names(sources[i])[1]|{'*'}
    for j in range(i-1, -1, -1):
        defined,used = names(sources[j] or '')
        if defined & wanted:
            res.append(j)
            wanted |= used
    return sorted(res)

def test_needed_cells():
    cells = ['from x import *', 'a = f(1)\nprint(b)', None, 'c = a+1\nassert z', 'def draw(k):\n  q = 2*c',
             'q = learn.fit()', '%time a.x()', 'explore(draw, k=slider(0, 1, 0))']
    assert needed_by(cells, 7)==[0,1,3,4,7]

def widgets_of(name): # Positions of their cells
    return [i for i,c in enumerate(read_nb(ROOT/'nbs'/f'{name}.ipynb')['cells'])
            if c['cell_type']=='code' and EXPLORE.search(source(c))]

@pytest.mark.parametrize('name', ['14_transfer', '15_interpretation', '16_pets'])
def test_widgets_of_lessons_that_train(lab, browser, lessons_folder, name):
    found = widgets_of(name)
    assert found, f'{name} has no slider'
    cells = read_nb(ROOT/'nbs'/f'{name}.ipynb')['cells']
    sources = [source(c) if c['cell_type']=='code' else None for c in cells]
    wanted = sorted({j for i in found for j in needed_by(sources, i)})
    wanted = [j for j in wanted if '.lr_find(' not in sources[j]]          # it is a training, too
    cells = [NO_TRAINING.strip(), *(ast.unparse(parsed(sources[j])) for j in wanted)]
    nb = ran(lab, browser, lessons_folder, f'widgets_of_{name}', *cells, seconds=240)
    page = nb.page
    for i in found:
        move_controls(nb, wanted.index(i)+1)
        shot(page, f'{name}_{i}')
    page.close()
