"What is remembered of a reader: solved exercises, and nothing where nobody has solved any."
import json, os, re, subprocess, sys
from pathlib import Path
import pytest
from coursekit.course import exercise
from coursekit.course.notebooks import code_cells, lessons, outputs, read_nb, source
from coursekit.course.record import CHECK, Record, exercise_names
ROOT = Path(__file__).resolve().parents[1]
LESSONS = {p.stem: [source(c) for c in code_cells(read_nb(p))] for p in lessons(ROOT/'nbs')}
WITH_EXERCISES = [k for k,cells in LESSONS.items() if exercise_names(cells)]

@pytest.fixture
def record(monkeypatch, tmp_path):
    monkeypatch.setenv('COURSEKIT_HOME', str(tmp_path/'home'))
    return Record()

def checks_of(name): # What the lesson imports as `check`
    lines = '\n'.join(LESSONS[name])
    line = re.search(r'^from .* import check$', lines, re.M)[0]
    found = {}
    exec(line, found)
    return found['check']

@pytest.mark.parametrize('name', WITH_EXERCISES)
def test_the_stubs_of_a_lesson_solve_nothing(name, record, monkeypatch):
    "So running the committed lessons, here or in CI, writes nothing into a reader's record"
    check,states = checks_of(name),[]
    monkeypatch.setattr(exercise.Verdict, 'show', lambda self: states.append(self.state))
    names = {}
    exec('from coursekit.vision.all import *', names)
    for cell in (c for c in LESSONS[name] if CHECK.search(c)): exec(cell, {**names, 'check':check})
    assert states and set(states)=={'not yet'}
    assert not record.path.exists() and not record.path.parent.exists()

@pytest.mark.parametrize('name', WITH_EXERCISES)
def test_progress_counts_the_exercises_that_check_knows(name):
    check = checks_of(name)
    assert check.lesson==name and set(exercise_names(LESSONS[name]))==set(check.all)

@pytest.mark.parametrize('name', [*LESSONS])
def test_committed_outputs_are_those_of_stubs(name):
    assert 'data-state="done"' not in json.dumps(outputs(read_nb(ROOT/'nbs'/f'{name}.ipynb')))

def test_a_right_answer_is_remembered_in_another_process(record):
    check = checks_of('03_sgd')
    ex = next(e for e in check.all.values() if e.is_value)
    assert f'1 of {len(check.all)} in this lesson' in check.verdict(ex.name, ex.answer).text
    other = next(e for e in check.all.values() if not e.is_value)
    code = ('from coursekit.course.exercises.sgd import check\n'
            f'print(check.verdict({other.name!r}, check.all[{other.name!r}].answer).text)')
    env = os.environ | dict(PYTHONPATH=str(ROOT))
    done = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True, check=True)
    assert f'2 of {len(check.all)} in this lesson' in done.stdout
    assert set(json.loads(record.path.read_text())['03_sgd'])=={ex.name, other.name}

@pytest.mark.slow
@pytest.mark.parametrize('page', ['course_exercise','course_exercises_sgd','course_maintain'])
def test_tests_of_the_pages_write_nothing(page, tmp_path):
    env = os.environ | dict(COURSEKIT_HOME=str(tmp_path/'home'), PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1')
    cmd = [Path(sys.executable).with_name('nbdev_test'), '--path', f'nbs/library/{page}.ipynb']
    r = subprocess.run(cmd, cwd=ROOT, env=env, capture_output=True, text=True)
    assert r.returncode==0, r.stdout+r.stderr
    assert not (tmp_path/'home'/'progress.json').exists()
