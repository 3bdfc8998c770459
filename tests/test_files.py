"Several programs that write into one folder: nothing is lost, and nothing is left behind."
import os, random, signal, subprocess, sys, time
from pathlib import Path
import pytest
from coursekit.files import atomic_write, file_lock

many = '''
import sys
from coursekit.files import atomic_write
folder,name,n = sys.argv[1:]
for i in range(int(n)):
    with atomic_write(f'{folder}/{name}_{i}') as f: f.write(f'{name} {i}'.encode())
'''
killed = '''
import sys
from coursekit.files import atomic_write
print('go', flush=True)
while True:
    with atomic_write(sys.argv[1]) as f: f.write(b'x'*2_000_000)
'''
def start(code, *args, **kw):
    env = {**os.environ, 'PYTHONPATH':str(Path(__file__).parents[1])}
    return subprocess.Popen([sys.executable, '-c', code, *map(str, args)], env=env, **kw)

def test_four_processes_save_into_one_folder(tmp_path):
    "Each of 4 × 300 files arrives, whole"
    ps = [start(many, tmp_path, name, 300, stderr=subprocess.PIPE, text=True) for name in 'abcd']
    for p in ps:
        _,err = p.communicate(timeout=300)
        assert p.returncode==0, err
    want = {f'{c}_{i}':f'{c} {i}' for c in 'abcd' for i in range(300)}
    assert {o.name:o.read_text() for o in tmp_path.iterdir()}==want

@pytest.mark.skipif(os.name=='nt', reason='needs SIGKILL')
def test_leftovers_of_killed_processes_go(tmp_path):
    "Six writers are killed at random moments while another writes: its files arrive, and nothing else stays"
    whole = start(many, tmp_path, 'a', 300)
    for i in range(6):
        p = start(killed, tmp_path/f'big_{i}', stdout=subprocess.PIPE, text=True)
        p.stdout.readline()
        time.sleep(random.uniform(0, 0.1))
        p.send_signal(signal.SIGKILL)
        p.wait()
    assert whole.wait(timeout=300)==0
    with atomic_write(tmp_path/'last') as f: f.write(b'')
    names = {o.name for o in tmp_path.iterdir()}
    assert {f'a_{i}' for i in range(300)} <= names
    assert {o for o in names if not o.startswith('a_')} <= {'last', *(f'big_{i}' for i in range(6))}
    assert all(o.stat().st_size==2_000_000 for o in tmp_path.glob('big_*'))

def test_a_file_system_without_locks(tmp_path, monkeypatch):
    "Files are written all the same"
    def no_locks(self, *args, **kwargs): raise OSError(95, 'Operation not supported')
    monkeypatch.setattr('filelock.BaseFileLock.acquire', no_locks)
    for i in range(2):
        with atomic_write(tmp_path/'a') as f: f.write(b'%d' % i)
    assert [o.name for o in tmp_path.iterdir()]==['a'] and (tmp_path/'a').read_bytes()==b'1'
    with pytest.raises(OSError, match='not supported'), file_lock(tmp_path/'b'): pass

def test_who_waits_is_told_why(tmp_path, capsys):
    holder = start('import sys, time\nfrom coursekit.files import file_lock\n'
                   'with file_lock(sys.argv[1]):\n    print("go", flush=True)\n    time.sleep(3)',
                   tmp_path/'data', stdout=subprocess.PIPE, text=True)
    holder.stdout.readline()
    with file_lock(tmp_path/'data'): assert holder.wait(timeout=10)==0
    assert 'Waiting for another process that is preparing data' in capsys.readouterr().err
    assert [*tmp_path.iterdir()]==[]

def test_files_of_the_reader_are_no_locks_and_no_leftovers(tmp_path):
    "Though they are called like one"
    mine = {'.a.lock':'mine', '.tmp_coursekit_best.pth':'mine', '..tmp_coursekit_best.pth.lock':''}
    for k,v in mine.items(): (tmp_path/k).write_text(v)
    for _ in range(2):
        with file_lock(tmp_path/'a'), atomic_write(tmp_path/'a') as f: f.write(b'')
    assert {o.name:o.read_text() for o in tmp_path.iterdir()}=={**mine, 'a':''}

@pytest.mark.skipif(not os.path.isdir('/proc/self'), reason='needs a folder in which no file can be made')
def test_no_waiting_for_a_lock_that_cannot_be_made():
    "`filelock` takes that for the lock of another process"
    start = time.monotonic()
    with pytest.raises(OSError, match='/proc/x'), atomic_write('/proc/x'): pass
    assert time.monotonic()-start<5
