"Every exercise: right answers pass, mistakes get their hints, stubs say 'not yet', no lesson shows answers"
import ast, importlib, inspect, pkgutil, re, textwrap
from pathlib import Path
import pytest
import coursekit.course.exercises
from coursekit.course.exercise import is_stub
from coursekit.course.notebooks import code_cells, outputs, read_nb, source

ROOT = Path(__file__).parents[1]
MODULES = sorted(m.name for m in pkgutil.iter_modules(coursekit.course.exercises.__path__))

def lesson(check): return read_nb(ROOT/'nbs'/f'{check.lesson}.ipynb')
def code(nb): return [source(c) for c in code_cells(nb)]
def load(mod): return importlib.import_module(f'coursekit.course.exercises.{mod}').check

def test_there_are_exercises(): assert len(MODULES) >= 5, MODULES

@pytest.mark.parametrize('mod', MODULES)
def test_answers(mod, capsys):
    "Right answer: done. Two mistakes or more: each its own hint. Untouched: not yet"
    load(mod).prove()
    assert 4 <= len(load(mod).all), f'{mod}: a lesson has 4 to 6 exercises'

@pytest.mark.parametrize('mod', MODULES)
def test_lesson_and_exercises_agree(mod):
    "Each exercise has one stub and one check in its lesson, and each check has its exercise"
    check = load(mod)
    cells = code(lesson(check))
    asked = [m[1] or m[2] for c in cells for m in re.finditer(r"^check\((?:'(\w+)', *\w+|(\w+))\)", c, re.M)]
    assert sorted(asked) == sorted(check.all)
    for name in asked:
        cell = next(c for c in cells if re.search(rf"^check\('?{name}\b", c, re.M))
        def defines(n, name=name):
            return getattr(n, 'name', None)==name or isinstance(n, ast.Assign) and n.targets[0].id==name
        stub = next(n for n in ast.parse(cell).body if defines(n))
        if isinstance(stub, ast.Assign): assert stub.value.value is ..., f'{name} is not left open'
        else: assert '...' in ast.unparse(stub), f'{name} is not left open'

@pytest.mark.parametrize('mod', MODULES)
def test_saved_lesson_says_not_yet(mod):
    check = load(mod)
    shown = [o['data'] for o in outputs(lesson(check)) if 'data' in o]
    said = [''.join(data['text/plain']) for data in shown if 'ck-check' in ''.join(data.get('text/html', ''))]
    assert len(said)==len(check.all) and all(': not yet.' in s for s in said), said

@pytest.mark.parametrize('mod', MODULES)
def test_no_solution_in_the_lesson(mod):
    "The body of no right answer stands in its lesson's exercise section, nor anywhere in its text"
    check = load(mod)
    cells = lesson(check)['cells']
    text = ''.join(source(c) for c in cells if c['cell_type']=='markdown' or 'check(' in source(c))
    def squeeze(s): return re.sub(r'\s+', '', s)
    for ex in check.all.values():
        if not inspect.isfunction(ex.answer): continue
        body = ast.parse(textwrap.dedent(inspect.getsource(ex.answer))).body[0].body
        code = [n for n in body if not isinstance(getattr(n, 'value', None), ast.Constant)]
        src = squeeze(''.join(map(ast.unparse, code)))
        assert len(src) < 12 or src not in squeeze(text), f'{check.lesson} shows the answer of {ex.name}'

def test_stub_detection_can_fail():
    def f(x): return x
    assert not is_stub(f)
