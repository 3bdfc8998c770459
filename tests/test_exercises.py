"Every exercise: right answers pass, mistakes get own hints, stubs say 'not yet', lessons show no solution"
import ast, importlib, inspect, json, pkgutil, re, textwrap
from pathlib import Path
import pytest
import coursekit.course.exercises
from coursekit.course.exercise import is_stub

ROOT = Path(__file__).parents[1]
MODULES = sorted(m.name for m in pkgutil.iter_modules(coursekit.course.exercises.__path__))

def lesson(check): return json.loads((ROOT/'nbs'/f'{check.lesson}.ipynb').read_text(encoding='utf-8'))
def code(nb): return [''.join(c['source']) for c in nb['cells'] if c['cell_type']=='code']
def name_of(n): return n.targets[0].id if isinstance(n, ast.Assign) else getattr(n, 'name', None)
def verdicts(nb): # what its checks have said
    datas = [o['data'] for c in nb['cells'] if c['cell_type']=='code' for o in c['outputs'] if 'data' in o]
    return [''.join(d['text/plain']) for d in datas if 'ck-check' in ''.join(d.get('text/html',''))]
def load(mod): return importlib.import_module(f'coursekit.course.exercises.{mod}').check

def test_there_are_exercises(): assert len(MODULES) >= 5, MODULES

@pytest.mark.parametrize('mod', MODULES)
def test_page_proves_its_answers(mod):
    """`check.prove()` runs with the cells of the page. Right answer: done. Two mistakes or more: each its
    own hint. Untouched: not yet"""
    check = load(mod)
    page = json.loads((ROOT/f'nbs/library/course_exercises_{mod}.ipynb').read_text(encoding='utf-8'))
    assert 'check.prove()' in [s.strip() for s in code(page)]
    assert 4 <= len(check.all), f'{mod}: a lesson has 4 to 6 exercises'

@pytest.mark.parametrize('mod', MODULES)
def test_lesson_and_exercises_agree(mod):
    "Each exercise has one stub and one check in its lesson, and each check has its exercise"
    check = load(mod)
    cells = code(lesson(check))
    asked = [m[1] or m[2] for c in cells for m in re.finditer(r"^check\((?:'(\w+)', *\w+|(\w+))\)", c, re.M)]
    assert sorted(asked) == sorted(check.all), f'{check.lesson} asks for {asked}, not {list(check.all)}'
    for name in asked:
        cell = next(c for c in cells if re.search(rf"^check\('?{name}\b", c, re.M))
        stub = next(n for n in ast.parse(cell).body if name_of(n)==name)
        if isinstance(stub, ast.Assign): assert stub.value.value is ..., f'{name} is not left open'
        else: assert '...' in ast.unparse(stub), f'{name} is not left open'

@pytest.mark.parametrize('mod', MODULES)
def test_saved_lesson_says_not_yet(mod):
    check = load(mod)
    said = verdicts(lesson(check))
    assert len(said)==len(check.all) and all(': not yet.' in s for s in said), said

@pytest.mark.parametrize('mod', MODULES)
def test_no_solution_in_the_lesson(mod):
    "The body of no right answer stands in its lesson's exercise section, nor anywhere in its text"
    check = load(mod)
    sources = [(c['cell_type'], ''.join(c['source'])) for c in lesson(check)['cells']]
    text = ''.join(s for kind,s in sources if kind=='markdown' or 'check(' in s)
    squeeze = lambda s: re.sub(r'\s+', '', s)
    for ex in check.all.values():
        if not inspect.isfunction(ex.answer): continue
        body = ast.parse(textwrap.dedent(inspect.getsource(ex.answer))).body[0].body
        code = [n for n in body if not isinstance(getattr(n,'value',None), ast.Constant)]
        src = squeeze(''.join(map(ast.unparse, code)))
        assert len(src) < 12 or src not in squeeze(text), f'{check.lesson} shows the answer of {ex.name}'

def test_stub_detection_can_fail():
    def f(x): return x
    assert not is_stub(f)
