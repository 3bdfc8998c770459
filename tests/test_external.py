"""Downloads and the cache, against a server that misbehaves and processes that die."""
import base64,errno,gzip,io,multiprocessing,os,shutil,socket,subprocess,sys,tarfile,time,urllib.parse,zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from servers import FaultServer,check_of,linked,tgz
from coursekit.data import external
from coursekit.errors import error_text,full_message
from coursekit.fetch import archive,cache,download
from coursekit.fetch.archive import ArchiveError,UnsafeArchiveError
from coursekit.fetch.cache import DataError,StorageError
from coursekit.fetch.download import DownloadError,NoNetworkError,WrongFileError
from coursekit.data.external import CHECKS,URLs,untar_data
from coursekit.sketch.registry import SKETCHES,Sketch

NOISE = os.urandom(300_000)                       # does not compress: sizes below are those on the wire
GOOD = tgz({'3/a.png':b'three', '7/b.png':b'seven', 'noise':NOISE}, root='set/')

@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    "Every test has its own cache, no proxy, and no long waits"
    monkeypatch.setenv('COURSEKIT_HOME', str(tmp_path/'home'))
    for o in list(os.environ):
        if o.lower().endswith('_proxy'): monkeypatch.delenv(o)
    monkeypatch.setattr(download, 'PAUSE', 0.01)
    return tmp_path/'home'

@pytest.fixture
def server():
    with FaultServer() as s: yield s

def is_good(path):
    want = {'3/a.png':b'three', '7/b.png':b'seven', 'noise':NOISE}
    return all((path/k).read_bytes()==v for k,v in want.items())
def names(folder): return sorted(o.name for o in folder.iterdir()) if folder.exists() else []
def whole(name): return [f'.{name}.files',f'.{name}.json',name]      # what is in data/ then
def no_trace(home, name='set'):
    "Nothing of a failed call is left in data/ (an unfinished download may wait in archive/)"
    assert names(home/'data')==[] , names(home/'data')
    assert not [o for o in names(home/'archive') if o.endswith(('.lock','.use')) or o==f'{name}.tgz']

# ------------------------------------------------------------------ the good case
def test_download_and_cache(server, home):
    url,item = server.put('/set.tgz', GOOD)
    path = untar_data(url)
    assert path==home/'data/set' and is_good(path)
    assert untar_data(url)==path and len(item.requests)==1
    assert names(home/'data')==whole('set') and names(home/'archive')==['.set.tgz.json','set.tgz']
    shutil.rmtree(path)
    untar_data(url)
    assert is_good(path) and len(item.requests)==1             # from the archive that we kept
    untar_data(url, force_download=True)
    assert is_good(path) and len(item.requests)==2 and names(home/'data')==whole('set')

def test_import_is_light():
    code = ("import sys, coursekit.data.external; "
            "bad = {'torch','numpy','pandas','PIL','matplotlib','IPython'} & set(sys.modules); "
            "assert not bad, bad")
    subprocess.run([sys.executable,'-c',code], check=True)

def test_published_sizes():
    assert [CHECKS[o][0] for o in (URLs.MNIST_SAMPLE,URLs.MNIST,URLs.PETS,URLs.FLOWERS,
                                   URLs.IMAGENETTE_160)]==[3214948,15683414,811706944,345236087,99003388]

# ------------------------------------------------------------------ truncation and resuming
def test_truncated_resumes(server):
    url,item = server.put('/set.tgz', GOOD, 'cut:100000', 'cut:50000', 'ok')
    assert is_good(untar_data(url))
    assert [o[0] for o in item.requests]==[None,'bytes=100000-','bytes=150000-']
    assert [o[1] for o in item.requests]==[None,'"v1"','"v1"']
    assert item.sent==len(GOOD)                                # not a byte twice

def test_resumes_in_a_later_call(server, home):
    url,item = server.put('/set.tgz', GOOD, 'cut:100000', 404, 'ok')
    with pytest.raises(DownloadError, match='100,000 bytes that came are kept'): untar_data(url)
    no_trace(home)
    assert is_good(untar_data(url)) and item.sent==len(GOOD) and item.requests[-1][0]=='bytes=100000-'

def test_truncated_without_ranges_starts_over(server):
    url,item = server.put('/set.tgz', GOOD, 'cut:100000', 'ok', ranges=False)
    assert is_good(untar_data(url))
    assert item.requests[1][0]=='bytes=100000-' and item.sent==100000+len(GOOD)

def test_truncated_for_ever_is_bounded(server, home):
    url,item = server.put('/set.tgz', GOOD, 'cut:100000', ranges=False)
    with pytest.raises(DownloadError, match=r'closed after 100,000 of [\d,]+ bytes \(5 tries\)'):
        untar_data(url)
    assert len(item.requests)==5
    no_trace(home)
    item.plan = ('ok',)
    assert is_good(untar_data(url))

def test_changed_file_is_not_glued_together(server):
    url,item = server.put('/set.tgz', GOOD, 'cut:100000', 404)
    with pytest.raises(DownloadError): untar_data(url)
    other = tgz({'3/a.png':b'three', '7/b.png':b'seven', 'noise':NOISE[::-1]}, root='set/')
    url,item = server.put('/set.tgz', other, etag='"v2"')
    assert (untar_data(url)/'noise').read_bytes()==NOISE[::-1]
    assert item.requests==[('bytes=100000-','"v1"')] and item.sent==len(other)

def test_wrong_part_is_refused(server):
    url,item = server.put('/set.tgz', GOOD, 'cut:100000', 'shifted:7', 'ok')
    assert is_good(untar_data(url)) and item.requests[2][0] is None

def test_no_etag_no_check_no_resume(server):
    url,item = server.put('/set.tgz', GOOD, 'cut:100000', 'ok', etag='')
    assert is_good(untar_data(url)) and item.requests[1][0] is None

def test_complete_part_is_used(server, home):
    "Killed between the last byte and the rename"
    url,item = server.put('/set.tgz', GOOD)
    (home/'archive').mkdir(parents=True)
    part = home/'archive/.set.tgz.part'
    part.write_bytes(GOOD)
    cache.write_stamp(part, url=url, total=len(GOOD), tag='"v1"')
    assert is_good(untar_data(url)) and item.requests==[]

# ------------------------------------------------------------------ servers in trouble
def test_stall_times_out_and_resumes(server):
    url,item = server.put('/set.tgz', GOOD, 'stall:1000', 'ok')
    t = time.monotonic()
    assert is_good(untar_data(url, timeout=0.3)) and time.monotonic()-t<5
    assert item.requests[1][0]=='bytes=1000-'

def test_stall_for_ever_gives_up(server, home):
    url,item = server.put('/set.tgz', GOOD, 'stall:0')
    with pytest.raises(DownloadError, match='went silent'): untar_data(url, timeout=0.15)
    assert len(item.requests)==5
    no_trace(home)

def test_404_is_final(server, home):
    url,item = server.put('/set.tgz', GOOD, 404, 'ok')
    with pytest.raises(DownloadError, match='404') as e: untar_data(url)
    for o in (url, str(home/'archive/set.tgz')): assert o in full_message(e.value)
    assert len(item.requests)==1
    no_trace(home)
    assert is_good(untar_data(url))

@pytest.mark.parametrize('fault', [500,503,429,'reset'])
def test_trouble_then_fine(server, fault):
    url,item = server.put('/set.tgz', GOOD, fault, fault, 'ok')
    assert is_good(untar_data(url)) and len(item.requests)==3

def test_500_for_ever(server, home):
    url,item = server.put('/set.tgz', GOOD, 500)
    with pytest.raises(DownloadError, match=r'500 .*\(5 tries\)'): untar_data(url)
    assert len(item.requests)==5
    no_trace(home)
    item.plan = ('ok',)
    assert is_good(untar_data(url))

def test_backoff_doubles(monkeypatch, server):
    waits = []
    monkeypatch.setattr(download.time, 'sleep', waits.append)
    monkeypatch.setattr(download, 'PAUSE', 1.)
    url,_ = server.put('/set.tgz', GOOD, 500)
    with pytest.raises(DownloadError): untar_data(url)
    assert waits==[1,2,4,8]

def test_no_network(home, monkeypatch):
    with socket.socket() as s:
        s.bind(('127.0.0.1',0))
        port = s.getsockname()[1]
    monkeypatch.setattr(URLs, 'PETS', f'http://127.0.0.1:{port}/oxford-iiit-pet.tgz')
    t = time.monotonic()
    with pytest.raises(NoNetworkError) as e: untar_data(URLs.PETS)
    for o in ('refused', URLs.PETS, 'untar_data(URLs.PETS_SKETCH)', str(home/'archive/oxford-iiit-pet.tgz')):
        assert o in full_message(e.value)
    assert time.monotonic()-t<2 and isinstance(e.value, OSError)
    no_trace(home, 'oxford-iiit-pet')
    (home/'archive/oxford-iiit-pet.tgz').write_bytes(GOOD)     # do as the message says
    assert is_good(untar_data(URLs.PETS))

def test_unknown_host(home):
    with pytest.raises(NoNetworkError, match='could not be looked up'):
        untar_data('http://nowhere.invalid/set.tgz')
    no_trace(home)

# ------------------------------------------------------------------ the wrong thing
def test_login_page(server, home):
    url,item = server.put('/set.tgz', b'<!DOCTYPE html><title>Hotel Wi-Fi</title>'+b' '*10**6,
                          ctype='text/html')
    with pytest.raises(WrongFileError, match='web page.*text/html') as e: untar_data(url)
    assert 'Hotel' in str(e.value) and names(home/'archive')==[]
    no_trace(home)
    item.body = GOOD
    assert is_good(untar_data(url))

def test_digest_mismatch(server, home, monkeypatch):
    bad = GOOD[:5000]+bytes([GOOD[5000]^1])+GOOD[5001:]
    url,item = server.put('/set.tgz', bad)
    monkeypatch.setitem(CHECKS, url, check_of(GOOD))
    with pytest.raises(WrongFileError, match='MD5') as e: untar_data(url)
    assert check_of(GOOD)[1] in str(e.value) and check_of(bad)[1] in str(e.value)
    assert names(home/'archive')==[]
    no_trace(home)
    item.body = GOOD
    assert is_good(untar_data(url))

def test_digest_mismatch_after_resume_starts_over(server, monkeypatch):
    "A part of an older version, and a server that does not say so"
    old = b'\x1f\x8b'+os.urandom(99_998)
    url,item = server.put('/set.tgz', GOOD, etag='')
    monkeypatch.setitem(CHECKS, url, check_of(GOOD))
    a = external.coursekit_home()/'archive'
    a.mkdir(parents=True)
    (a/'.set.tgz.part').write_bytes(old)
    cache.write_stamp(a/'.set.tgz.part', url=url, total=len(GOOD), tag='')
    assert is_good(untar_data(url)) and [o[0] for o in item.requests]==['bytes=100000-',None]

def test_digest_mismatch_in_pieces_ends(server, home, monkeypatch):
    "Wrong, and resumed each time: one fresh start, then the error"
    url,item = server.put('/set.tgz', GOOD, 'cut:100000')
    monkeypatch.setitem(CHECKS, url, (len(GOOD),'0'*32))
    with pytest.raises(WrongFileError, match='MD5'): untar_data(url)
    assert item.sent==2*len(GOOD)
    no_trace(home)

def test_wrong_size_is_seen_before_the_download(server, home, monkeypatch):
    url,item = server.put('/set.tgz', GOOD, 'slow:5')
    monkeypatch.setitem(CHECKS, url, (len(GOOD)+1,'0'*32))
    with pytest.raises(WrongFileError, match='announces'): untar_data(url)
    no_trace(home)

def test_damaged_inside(server, home):
    "No digest is known, and the bytes are wrong: the archive's own checksum tells"
    bad = GOOD[:200_000]+bytes([GOOD[200_000]^1])+GOOD[200_001:]
    url,item = server.put('/set.tgz', bad)
    with pytest.raises(ArchiveError, match='damaged.*(\n.*removed)'): untar_data(url)
    no_trace(home)
    item.body = GOOD
    assert is_good(untar_data(url))                            # it was not kept: the retry fetches anew

def test_short_archive_served_as_whole(server, home):
    url,item = server.put('/set.tgz', GOOD[:150_000])
    with pytest.raises(ArchiveError, match='incomplete'): untar_data(url)
    no_trace(home)
    item.body = GOOD
    assert is_good(untar_data(url))

def test_damaged_own_archive_is_fetched_again_but_yours_is_not_touched(server, home, monkeypatch):
    url,item = server.put('/set.tgz', GOOD)
    monkeypatch.setitem(CHECKS, url, check_of(GOOD))
    path = untar_data(url)
    shutil.rmtree(path)
    (home/'archive/set.tgz').write_bytes(b'rotten')
    assert is_good(untar_data(url)) and len(item.requests)==2
    shutil.rmtree(path)
    cache.drop_stamp(home/'archive/set.tgz')
    (home/'archive/set.tgz').write_bytes(b'by hand')
    with pytest.raises(WrongFileError, match='Remove it'): untar_data(url)
    with pytest.raises(StorageError, match='by hand'): untar_data(url, force_download=True)
    assert (home/'archive/set.tgz').read_bytes()==b'by hand'

def test_an_archive_that_the_reader_changed_is_kept(server, home, monkeypatch):
    "Also when the right one is fetched in its place"
    url,item = server.put('/set.tgz', GOOD)
    untar_data(url)
    mine = tgz({'mine':b'mine'}, root='set/')
    (home/'archive/set.tgz').write_bytes(mine)
    untar_data(url, force_download=True)
    assert (home/'archive/set.tgz').read_bytes()==GOOD and (home/'archive/set.tgz.old1').read_bytes()==mine
    shutil.rmtree(home/'data')
    (home/'archive/set.tgz').write_bytes(b'rotten')
    with pytest.raises(ArchiveError, match='downloads it again'): untar_data(url)
    assert is_good(untar_data(url)) and (home/'archive/set.tgz.old2').read_bytes()==b'rotten'

def test_two_addresses_one_name(server):
    url,_ = server.put('/a/set.tgz', GOOD)
    other,_ = server.put('/b/set.tgz', tgz({'x':b'other'}, root='set/'))
    untar_data(url)
    with pytest.raises(DataError, match="data='other'"): untar_data(other)
    assert (untar_data(other, data='other')/'x').read_bytes()==b'other'
    assert is_good(untar_data(url))

# ------------------------------------------------------------------ servers that lie
def test_download_without_end(server, home, monkeypatch):
    "Nothing is announced and nothing published: there is a limit, and nothing stays"
    monkeypatch.setattr(download, 'MAX_SIZE', 5_000_000)
    url,item = server.put('/set.tgz', GOOD, 'endless', headers={'Content-Length':None})
    with pytest.raises(WrongFileError, match='more than the 5,000,000 bytes'): untar_data(url)
    assert names(home/'archive')==[] and len(item.requests)==1
    monkeypatch.setattr(download, 'MAX_SIZE', 2**40)
    with monkeypatch.context() as m:
        m.setattr(download.shutil, 'disk_usage', lambda p: shutil._ntuple_diskusage(10**9,0,8_000_000))
        with pytest.raises(WrongFileError, match='more than the 4,000,000 bytes'): untar_data(url)
    no_trace(home)

def test_more_than_was_published(server, home, monkeypatch):
    url,item = server.put('/set.tgz', GOOD, 'endless', headers={'Content-Length':None})
    monkeypatch.setitem(CHECKS, url, check_of(GOOD))
    with pytest.raises(WrongFileError, match=f'more than the {len(GOOD):,} bytes announced'): untar_data(url)
    assert names(home/'archive')==[]
    item.plan = ('ok',)
    item.requests.clear()
    assert is_good(untar_data(url))                            # of unknown size, and honest

@pytest.mark.parametrize('act', ['drip:0.02', 'dawdle:0.02'])
def test_one_byte_now_and_then(act, server, home):
    "Never silent, and never done: in the answer, and in its headers"
    url,item = server.put('/set', GOOD, act)
    with pytest.raises(DownloadError, match='bytes came in|had not begun'):
        download.download_url(url, home/'x', timeout=0.05, retries=1)

def test_packed_on_the_way(server, home):
    "Nobody asked for it. But a .tgz whose server calls it gzip is what it is"
    url,item = server.put('/set.tgz', GOOD, headers={'Content-Encoding':'gzip'})
    assert is_good(untar_data(url)) and (home/'archive/set.tgz').read_bytes()==GOOD
    url,item = server.put('/two.tgz', gzip.compress(GOOD), 'cut:100000', 'ok')
    item.headers = {'Content-Encoding':'gzip'}
    assert is_good(untar_data(url)) and (home/'archive/two.tgz').read_bytes()==GOOD
    assert [o[0] for o in item.requests]==[None,None]
    url,_ = server.put('/three.tgz', GOOD, headers={'Content-Encoding':'br'})
    with pytest.raises(WrongFileError, match="'br'"): untar_data(url)

@pytest.mark.parametrize('length', ['-5', 'many', '1e6', '²', '9'*30, '1000', None])
def test_wrong_content_length(length, server, home):
    url,item = server.put('/set.tgz', GOOD, headers={'Content-Length':length}, etag='')
    try: assert is_good(untar_data(url))
    except DataError: assert length in ('1000', '9'*30)
    item.headers = {}
    assert is_good(untar_data(url))

@pytest.mark.parametrize('told', ['bytes 0-9/10', 'bytes 100000-9/10', 'bytes x-y/z', '', 'bytes'])
def test_wrong_content_range(told, server):
    url,item = server.put('/set.tgz', GOOD, 'cut:100000', f'range:{told}', 'ok')
    assert is_good(untar_data(url))

def test_redirects(server, home):
    url,item = server.put('/set.tgz', GOOD)
    other,_ = server.put('/other.tgz', GOOD, f'goto:{url}')
    assert is_good(untar_data(other))
    for to,why in {'file:///etc/passwd':'file:', 'ftp://127.0.0.1/x':'ftp:', '/bad.tgz':'on and on'}.items():
        bad,item = server.put('/bad.tgz', GOOD, f'goto:{to}')
        with pytest.raises(DownloadError, match=why): untar_data(bad)
        assert len(item.requests)<=11

@pytest.mark.parametrize('to', ['http://[bad/x.tgz', f"http://{'a'*70}.de/x.tgz", 'data:text/plain,x', ''])
def test_redirects_to_nowhere(to, server):
    url,item = server.put('/set.tgz', GOOD, f'goto:{to}')
    with pytest.raises(DownloadError, match='sends us on|302'): untar_data(url)

def test_addresses_that_need_quoting(server, home):
    for path,name in [('/größe 1.tgz','größe 1'), ('/a%20b.tgz','a b'), ('/' + 'n'*300 + '.tgz',None)]:
        url,item = server.put(urllib.parse.quote(path, '/%'), GOOD)
        got = untar_data(url.rpartition('/')[0] + path)
        assert is_good(got) and (name is None or got.name==name) and len(item.requests)==1
        assert untar_data(url.rpartition('/')[0] + path)==got and len(item.requests)==1

def test_passwords_and_tokens_are_sent_and_not_told(server, home, capsys):
    url,item = server.put('/set.tgz', GOOD, 500, 'ok')
    secret = url.replace('//', '//me:pa%40ss@') + '?token=geheim'
    assert is_good(untar_data(secret)) and is_good(untar_data(secret))
    assert base64.b64decode(item.logins[1][6:])==b'me:pa@ss' and len(item.requests)==2
    item.plan = (404,)
    with pytest.raises(DownloadError) as e: untar_data(secret, force_download=True)
    told = full_message(e.value) + capsys.readouterr().err
    written = [o.read_text() for o in home.rglob('.*.json')] + [o.name for o in home.rglob('*')]
    for o in ('pa%40ss', 'pa@ss', 'geheim'): assert o not in told and not any(o in t for t in written)

def test_a_password_does_not_travel_on(server):
    "To another server, that is"
    with FaultServer() as other:
        there,item = other.put('/set.tgz', GOOD)
        url,_ = server.put('/set.tgz', GOOD, f'goto:{there}')
        untar_data(url.replace('//', '//me:secret@'))
        assert item.logins==[None]

def test_what_cannot_go_on_is_not_kept(server, home):
    "Without a tag nobody could notice that the file has changed"
    url,item = server.put('/set.tgz', GOOD, 'cut:100000', 404, etag='')
    with pytest.raises(DownloadError) as e: untar_data(url)
    assert 'are kept' not in full_message(e.value) and names(home/'archive')==[]

def test_addresses_that_are_none(home):
    for bad in ('http://', 'http://[::1/a.tgz', 'http://host:99999/a.tgz', f"http://{'a'*64}.de/a.tgz"):
        with pytest.raises(ValueError, match='The address'): untar_data(bad)

# ------------------------------------------------------------------ the cache's own folder
def test_no_home_directory(monkeypatch):
    monkeypatch.delenv('COURSEKIT_HOME')
    monkeypatch.setattr(Path, 'expanduser', lambda self: (_ for _ in ()).throw(RuntimeError('no home')))
    with pytest.raises(StorageError, match='COURSEKIT_HOME'): untar_data(URLs.PETS)

def test_odd_homes(server, tmp_path, monkeypatch):
    url,item = server.put('/set.tgz', GOOD)
    monkeypatch.chdir(tmp_path)
    for o in ('relative', './re/la/tive/', 'with space', ' padded', str(tmp_path/'slash')+'/'):
        monkeypatch.setenv('COURSEKIT_HOME', o)
        path = untar_data(url)
        assert path.is_absolute() and path.is_relative_to(tmp_path) and is_good(path)

def test_cache_deleted_meanwhile(home, monkeypatch):
    def draw(dest, workers=None, progress=None):
        shutil.rmtree(home)
        (dest/'a').write_text('')
    monkeypatch.setitem(SKETCHES, 'gone', Sketch('gone', draw, 'gone', version='1'))
    with pytest.raises(StorageError, match='deleted while.*COURSEKIT_HOME') as e: untar_data('sketch://gone')
    assert '/.gone' not in str(e.value)

@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid(), reason='only root can become somebody else')
def test_cache_of_another_user(server, home):
    url,_ = server.put('/set.tgz', GOOD)
    home.mkdir()
    home.chmod(0o700)
    for o in home.parents:
        if 'pytest' in str(o): o.chmod(0o755)
    os.seteuid(65534)
    try:
        with pytest.raises(StorageError, match='COURSEKIT_HOME') as e: untar_data(url)
        assert '/.set' not in str(e.value)
    finally: os.seteuid(0)

# ------------------------------------------------------------------ malicious archives
EVIL = dict(
    dotdot    = {'../evil':b'x'},
    deep      = {'a/b/../../../evil':b'x'},
    absolute  = {'/tmp/ck_evil':b'x'},
    backslash = {'..\\evil':b'x'},
    symlink   = {'s':linked('/etc/passwd')},
    escape    = {'s':linked('..'), 's/evil':b'x'},
    inside    = {'real/y':b'', 's':linked('real'), 's/evil':b'x', 't':linked('../..')},
    staircase = {'d':linked('.'), 'e':linked('d/d/d/../../..')},
    hardlink  = {'h':linked('/etc/passwd', tarfile.LNKTYPE)},
    hardup    = {'h':linked('../../secret', tarfile.LNKTYPE)},
    hardsym   = {'s':linked('../../secret'), 'h':linked('s', tarfile.LNKTYPE)},
    device    = {'null':linked('', tarfile.CHRTYPE)},
    block     = {'disk':linked('', tarfile.BLKTYPE)},
    fifo      = {'pipe':linked('', tarfile.FIFOTYPE)})

@pytest.mark.parametrize('kind', EVIL)
def test_malicious_tar(kind, server, home):
    (home.parent/'secret').write_text('secret')
    url,item = server.put('/set.tgz', tgz({'fine.txt':b'fine', **EVIL[kind]}))
    with pytest.raises(UnsafeArchiveError, match='refused'): untar_data(url)
    no_trace(home)
    assert not list(home.parent.rglob('*evil*')) and not Path('/tmp/ck_evil').exists()
    item.body = GOOD
    assert is_good(untar_data(url))

@pytest.mark.parametrize('name,mode', [('../evil',0), ('/tmp/ck_evil',0), ('..\\evil',0), ('C:\\evil',0),
                                       ('s',0o120777), ('n',0o020666)])
def test_malicious_zip(name, mode, server, home, tmp_path):
    with zipfile.ZipFile(tmp_path/'e.zip','w') as z:
        o = zipfile.ZipInfo('x')
        o.filename = name
        o.external_attr = mode<<16
        z.writestr('fine.txt', b'fine')
        z.writestr(o, b'../../secret')
    url,_ = server.put('/set.zip', (tmp_path/'e.zip').read_bytes())
    with pytest.raises(UnsafeArchiveError): untar_data(url)
    no_trace(home)
    assert names(home/'archive')==[] and not list(home.parent.rglob('*evil'))

def test_bomb(server, home):
    url,_ = server.put('/set.tgz', tgz({'zeros':bytes(290_000_000)}))
    with pytest.raises(UnsafeArchiveError, match='unpacks to more than 256 MiB'): untar_data(url)
    no_trace(home)

def test_modes_are_reduced(server):
    def weird(m): m.mode = 0o7777
    url,_ = server.put('/set.tgz', tgz({'run':weird,
                                        'dir':lambda m: (setattr(m,'type',tarfile.DIRTYPE), weird(m))}))
    path = untar_data(url)
    assert (path/'run').stat().st_mode & 0o7100==0o100 and (path/'dir').stat().st_mode & 0o7000==0

# ------------------------------------------------------------------ disks
def test_disk_full_while_unpacking(server, home, monkeypatch):
    url,item = server.put('/set.tgz', GOOD)
    real = archive._Writer.spend
    def full(self, n):
        if n>100_000: raise OSError(errno.ENOSPC, 'No space left on device')
        real(self, n)
    with monkeypatch.context() as m:
        m.setattr(archive._Writer, 'spend', full)
        with pytest.raises(StorageError, match='disk is full.*COURSEKIT_HOME') as e: untar_data(url)
        assert e.value.errno==errno.ENOSPC
    # the archive was complete
    assert names(home/'data')==[] and is_good(untar_data(url)) and len(item.requests)==1

@pytest.mark.skipif(not Path('/dev/full').exists(), reason='needs /dev/full')
def test_disk_full_for_real(server, home):
    "The unfinished download is a link to a device that is always full"
    url,item = server.put('/set.tgz', GOOD)
    (home/'archive').mkdir(parents=True)
    part = home/'archive/.set.tgz.part'
    part.symlink_to('/dev/full')
    cache.write_stamp(part, url=url)
    with pytest.raises(StorageError, match='disk is full'): untar_data(url)
    assert len(item.requests)==1
    part.unlink(missing_ok=True)
    assert is_good(untar_data(url))

def test_no_room_is_seen_before_the_download(server, home, monkeypatch):
    url,item = server.put('/set.tgz', GOOD)
    with monkeypatch.context() as m:
        m.setattr(download.shutil, 'disk_usage', lambda p: shutil._ntuple_diskusage(10,5,5))
        with pytest.raises(StorageError, match='COURSEKIT_HOME'): untar_data(url)
    no_trace(home)
    assert is_good(untar_data(url))

def test_unwritable_home(server, tmp_path, monkeypatch):
    (tmp_path/'file').write_text('')
    monkeypatch.setenv('COURSEKIT_HOME', str(tmp_path/'file'/'home'))
    url,_ = server.put('/set.tgz', GOOD)
    with pytest.raises(StorageError, match='COURSEKIT_HOME'): untar_data(url)

@pytest.mark.skipif(os.name=='nt' or os.geteuid()==0, reason='the administrator may write everywhere')
def test_read_only_home(server, home):
    home.mkdir()
    home.chmod(0o555)
    url,_ = server.put('/set.tgz', GOOD)
    try:
        with pytest.raises(StorageError, match='cannot be written'): untar_data(url)
    finally: home.chmod(0o755)

# ------------------------------------------------------------------ several processes, and sudden death
def _worker(url, q):
    try: q.put(is_good(untar_data(url)))
    except BaseException as e: q.put(repr(e))

def test_two_processes_one_download(server, home):
    url,item = server.put('/set.tgz', GOOD, 'slow:0.1')
    ctx = multiprocessing.get_context('fork' if hasattr(os,'fork') else 'spawn')
    q = ctx.Queue()
    ps = [ctx.Process(target=_worker, args=(url,q)) for _ in range(3)]
    for p in ps: p.start()
    got = [q.get(timeout=20) for _ in ps]
    for p in ps: p.join()
    assert got==[True]*3 and len(item.requests)==1 and item.sent==len(GOOD)
    assert names(home/'data')==whole('set') and names(home/'archive')==['.set.tgz.json','set.tgz']

def _start(code, **env):
    return subprocess.Popen([sys.executable,'-c',code],
                            env={**os.environ, 'PYTHONPATH':os.pathsep.join(sys.path), **env},
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

def test_killed_while_unpacking(server, home):
    url,item = server.put('/set.tgz', GOOD)
    p = _start(f'''
import time
from coursekit.data import external
from coursekit.fetch import archive
real = archive._Writer.file
def slow(self, name, *a): real(self, name, *a); print(name, flush=True); time.sleep(60 if '7' in name else 0)
archive._Writer.file = slow
external.untar_data({url!r})''')
    assert [p.stdout.readline().strip() for _ in range(2)]==['set/3/a.png','set/7/b.png']
    assert not (home/'data/set').exists() and any('.tmp-' in o for o in names(home/'data'))    # half-way
    p.kill()
    p.wait()
    p.stdout.close()
    assert is_good(untar_data(url))
    assert names(home/'data')==whole('set') and len(item.requests)==1
    assert names(home/'archive')==['.set.tgz.json','set.tgz']

def test_killed_while_downloading(server, home):
    url,item = server.put('/set.tgz', GOOD, 'stall:100000', 'ok')
    p = _start(f'from coursekit.data.external import *; untar_data({url!r})')
    t = time.monotonic()
    part = home/'archive/.set.tgz.part'
    while not (part.exists() and item.sent==100_000) and time.monotonic()-t<10: time.sleep(0.02)
    time.sleep(0.3)
    p.kill()
    p.wait()
    p.stdout.close()
    got = part.stat().st_size
    assert is_good(untar_data(url)) and item.requests[1][0]==(f'bytes={got}-' if got else None)
    assert names(home/'archive')==['.set.tgz.json','set.tgz']

# ------------------------------------------------------------------ sketches
@pytest.fixture
def dots(monkeypatch):
    calls = []
    def draw(dest, workers=None, progress=None):
        calls.append(1)
        for i in range(3):
            (dest/f'{i}.txt').write_text('.'*i)
            progress(i+1, 3)
            if i==1 and len(calls)==1: raise KeyboardInterrupt
    monkeypatch.setitem(SKETCHES, 'dots_sketch', Sketch('dots_sketch', draw, 'dots', version='1'))
    return calls,draw

def test_interrupted_drawing(dots, home, monkeypatch, capsys):
    calls,draw = dots
    with pytest.raises(KeyboardInterrupt): untar_data('sketch://dots_sketch')
    assert names(home/'data')==[]
    path = untar_data('sketch://dots_sketch')
    assert names(path)==['0.txt','1.txt','2.txt'] and names(home/'data')==whole('dots_sketch')
    # one line where nobody watches a bar
    assert capsys.readouterr().err.splitlines()==['Drawing sketch data dots_sketch (dots) …']*2
    untar_data('sketch://dots_sketch')
    assert len(calls)==2                                             # drawn once
    monkeypatch.setitem(SKETCHES, 'dots_sketch', Sketch('dots_sketch', draw, 'dots', version='2'))
    untar_data('sketch://dots_sketch')
    assert len(calls)==3 and names(home/'data')==whole('dots_sketch')

def test_failing_redraw_keeps_the_old(dots, home, monkeypatch):
    calls,draw = dots
    calls.append(0)
    path = untar_data('sketch://dots_sketch')
    def broken(dest, **kw):
        (dest/'half').write_text('')
        raise RuntimeError('pen broke')
    monkeypatch.setitem(SKETCHES, 'dots_sketch', Sketch('dots_sketch', broken, 'dots', version='2'))
    with pytest.raises(RuntimeError, match='pen broke'): untar_data('sketch://dots_sketch')
    assert names(path)==['0.txt','1.txt','2.txt'] and names(home/'data')==whole('dots_sketch')

def test_terminal_shows_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(cache, '_has_viewer', lambda: True)
    clock = iter(range(0,1000,2))
    monkeypatch.setattr(cache.time, 'monotonic', lambda: next(clock))
    with cache.progress_to('Drawing sketch data', unit='pictures') as show:
        for i in range(3): show(i+1, 3)
    assert 'Drawing sketch data' in capsys.readouterr().err

def test_a_long_name_leaves_room_for_the_bar(monkeypatch):
    "Notebooks keep 110 characters of a bar; from those `neutral` knows that it is one"
    shown,tqdm = [],cache.tqdm
    monkeypatch.setattr(cache, '_has_viewer', lambda: True)
    def noted(desc, **kw):
        shown.append(desc)
        return tqdm(desc=desc, file=io.StringIO(), **kw)
    monkeypatch.setattr(cache, 'tqdm', noted)
    with cache.progress_to('Drawing sketch data '+'x'*200, wait=0) as show: show(1, 3)
    assert shown == ['Drawing sketch data '+'x'*39+'…']

@pytest.mark.parametrize('timeout', [0, -1, None, 'x', float('nan'), float('inf'), 1e12])
def test_odd_timeouts(timeout, server, home):
    url,_ = server.put('/set.tgz', GOOD)
    with pytest.raises(ValueError, match='timeout.*seconds'): untar_data(url, timeout=timeout)

@pytest.mark.parametrize('kw', [dict(data=5), dict(archive=5), dict(base=5), dict(c_key=None)])
def test_folders_that_are_no_names(kw, server, home):
    url,_ = server.put('/set.tgz', GOOD)
    assert 'take the names of folders' in error_text(untar_data, url, **kw)

def test_headers_of_nonsense(server, home):
    url,_ = server.put('/a.tgz', b'\x89PNG'*500, ctype='text/\x1b[31mhtml')
    assert '\x1b' not in error_text(untar_data, url)
    assert '\x1b' not in error_text(untar_data, url.replace('/a', '/\x1b[31m/a'))
    download._pause(0, SimpleNamespace(headers={'Retry-After':'\xb2'}))

def test_the_way_breaks_off_in_the_middle(server, home, monkeypatch):
    "The system reports that as an error of the file"
    url,_ = server.put('/set.tgz', GOOD)
    def broken(self, n): raise OSError(errno.EHOSTUNREACH, 'No route to host')
    monkeypatch.setattr(download.http.client.HTTPResponse, 'read1', broken)
    with pytest.raises(NoNetworkError, match='no way to it'): untar_data(url)

@pytest.mark.parametrize('error', [MemoryError(), OSError(errno.EIO, 'Input/output error'),
                                   OSError(errno.EMFILE, 'Too many open files')])
def test_a_good_archive_is_kept_when_the_machine_is_in_trouble(error, server, home, monkeypatch):
    url,item = server.put('/set.tgz', GOOD)
    def fails(*args): raise error
    with monkeypatch.context() as m:
        m.setattr(archive._Writer, 'file', fails)
        with pytest.raises((MemoryError,StorageError)): untar_data(url)
    untar_data(url)
    assert len(item.requests)==1

@pytest.mark.parametrize('where', ['write_stamp', 'os.replace', 'drop_stamp'])
@pytest.mark.parametrize('after', [False, True])
def test_interrupted_just_before_the_end_of_a_download(where, after, server, home, monkeypatch):
    "The archive stays ours: it is not taken for one that was put there by hand"
    url,_ = server.put('/set.tgz', GOOD)
    owner = os if where=='os.replace' else download
    real = getattr(owner, where.split('.')[-1])
    def interrupted(path, *args, **kw):
        is_end = where=='os.replace' and str(args[0]).endswith('set.tgz') or str(path).endswith('set.tgz')
        is_end = is_end or where=='drop_stamp' and (home/'archive'/'set.tgz').exists()
        if not is_end: return real(path, *args, **kw)
        if after: real(path, *args, **kw)
        raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(owner, where.split('.')[-1], interrupted)
        with pytest.raises(KeyboardInterrupt): untar_data(url)
    assert is_good(untar_data(url)) and is_good(untar_data(url, force_download=True))
    assert names(home/'archive')==['.set.tgz.json', 'set.tgz']
