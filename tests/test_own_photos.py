"""Photos of one's own: addresses that misbehave, phones' files, copies."""
import io, threading, time, warnings
import pytest
from PIL import Image
from coursekit.fetch.download import DownloadError, read_url
from coursekit.vision.core import PILImage, verify_images
from coursekit.vision import core, utils
from coursekit.vision.utils import *
from servers import FaultServer

def jpeg(colour='red', size=(60,40), kind='JPEG', **kwargs):
    buf = io.BytesIO()
    Image.new('RGB', size, colour).save(buf, kind, **kwargs)
    return buf.getvalue()

@pytest.fixture
def server():
    with FaultServer() as s: yield s

def fetch(dest, urls, **kwargs):
    "The report, and the warnings"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        return download_images(dest, urls=urls, **kwargs),[str(o.message) for o in told]

def test_each_bad_address_has_its_reason(server, tmp_path):
    "And none of them holds up the rest, or leaves anything behind"
    picture,loop = jpeg(),{}
    for name in ('round','there'): loop[name],_ = server.put(f'/{name}', b'')
    server.put('/round', b'', f"goto:{loop['there']}")
    server.put('/there', b'', f"goto:{loop['round']}")
    bad = {'text.jpg':(b'just words', 'ok', 'no picture'), 'page.jpg':(b'<html>', 'ok', 'web page'),
           'empty.jpg':(b'', 'ok', 'empty'), 'half.jpg':(picture, 'cut:200', 'closed after 200'),
           'broken.jpg':(picture[:300], 'ok', ''), 'endless.jpg':(picture, 'endless', 'larger than'),
           'huge.jpg':(bytes(400_001), 'ok', 'larger than'), 'gone.jpg':(b'', 410, 'gone'),
           'drip.jpg':(picture, 'drip:0.02', 'in time'), 'silent.jpg':(picture, 'stall:100', 'silent'),
           'head.jpg':(picture, 'dawdle:0.02', 'not begun'),
           'file.jpg':(b'', 'goto:file:///etc/hosts', 'not allowed'),
           'reset.jpg':(picture, 'reset', ''),
           'bomb.png':(jpeg(size=(9000,9000), kind='PNG'), 'ok', 'too large')}
    why = {}
    for name,(body,act,said) in bad.items():
        headers = {'Content-Length':None} if act in ('endless','drip:0.02') else {}
        url,_ = server.put(f'/{name}', body, act, headers=headers)
        why[url] = said
    why[loop['round']] = 'on and on'
    good = [server.put(f'/{i}.jpg', jpeg((i*20,0,0)))[0] for i in range(8)]
    start = time.monotonic()
    report,told = fetch(tmp_path/'d', [*why, *good], timeout=0.6, max_seconds=2, max_bytes=400_000)
    assert time.monotonic()-start<12
    assert len(report.saved)==8 and report.dropped.keys()==why.keys()
    for url,said in why.items(): assert said in report.dropped[url], (url, report.dropped[url])
    assert sorted(o.name for o in (tmp_path/'d').iterdir())==sorted(o.name for o in report.saved)
    assert not verify_images(report.saved)
    assert len(told)==1 and '8 of 23 addresses' in told[0] and 'text.jpg' in told[0]

def test_no_way_from_the_web_into_the_own_network(server, tmp_path):
    "Not to another server here, by name or number; on the same server a redirect is followed"
    with FaultServer() as inside:
        secret,item = inside.put('/secret.jpg', jpeg())
        by_name = secret.replace('127.0.0.1', 'localhost')
        urls = [server.put(f'/{i}.jpg', b'', f'goto:{to}')[0] for i,to in enumerate((secret, by_name))]
        near,_ = server.put('/near.jpg', jpeg())
        urls.append(server.put('/ok.jpg', b'', f'goto:{near}')[0])
        report,_ = fetch(tmp_path, urls)
    assert not item.requests and len(report.saved)==1
    assert all('inside this network' in o for o in report.dropped.values())

def test_a_password_is_not_shown_and_not_passed_on(server, tmp_path):
    url,item = server.put('/a.jpg', b'', 404)
    with FaultServer() as other:
        to,seen = other.put('/b.jpg', jpeg())
        server.put('/c.jpg', b'', f'goto:{to}')
        urls = [o.replace('http://', 'http://ann:s3cret@') for o in (url, url.replace('a.jpg', 'c.jpg'))]
        report,told = fetch(tmp_path, urls)
    assert item.logins[0].startswith('Basic') and not seen.logins
    assert len(report.dropped)==2 and 's3cret' not in str(report)+str(told)

def test_names_never_leave_the_folder_and_never_collide(server, tmp_path):
    server.put('/a.jpg', jpeg())
    server.put('/%2e%2e%2f%2e%2e%2fup.jpg', jpeg('blue'))
    base,_ = server.put('/x', jpeg('green'))
    base = base.removesuffix('/x')
    urls = [f'{base}/a.jpg?n={i}' for i in range(12)] + [f'{base}/%2e%2e%2f%2e%2e%2fup.jpg', f'{base}/x']
    report,_ = fetch(tmp_path/'in'/'here', urls, preserve_filename=True)
    assert {o.parent for o in report.saved}=={tmp_path/'in'/'here'} and len(set(report.saved))==14
    names = {o.name for o in report.saved}
    assert {'a.jpg','a1.jpg','a11.jpg','up.jpg','x.jpg'} <= names
    assert not list(tmp_path.glob('*.jpg'))

def test_downloads_run_at_the_same_time(server, tmp_path):
    urls = [server.put(f'/{i}.jpg', jpeg((i,0,0)), 'slow:0.2')[0] for i in range(16)]
    start = time.monotonic()
    report,_ = fetch(tmp_path, urls, n_workers=16)
    assert len(report.saved)==16 and time.monotonic()-start<2
    assert [o.name for o in report.saved]==[f'{i:08d}.jpg' for i in range(16)], 'in the order of the list'

def test_an_interrupt_does_not_wait(server, tmp_path, monkeypatch):
    urls = [server.put(f'/{i}.jpg', jpeg(), 'stall:10')[0] for i in range(20)]
    class Now:
        def __init__(self, *a, **kw): pass
        def __enter__(self): raise KeyboardInterrupt
        def __exit__(self, *a): pass
    monkeypatch.setattr(utils, 'progress_to', Now)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt): download_images(tmp_path, urls=urls, n_workers=2, timeout=1)
    assert time.monotonic()-start<0.5
    for t in [o for o in threading.enumerate() if o.name.startswith('download')]: t.join(5)
    assert sum(bool(o.requests) for o in server.items.values())<=2, 'the others were never asked'

def test_one_address_can_be_read(server):
    url,item = server.put('/a', b'words', 'ok', 503)
    assert read_url(url)==b'words' and item.requests==[(None, None)]
    with pytest.raises(DownloadError, match='503'): read_url(url)
    assert len(item.requests)==2, 'one try each'

def test_a_phone_s_picture(tmp_path):
    heif = pytest.importorskip('pillow_heif')
    heif.register_heif_opener()
    im = Image.new('RGB', (60,40), 'blue')
    im.paste('red', (0,0,30,40))
    note = Image.Exif()
    note[0x0112] = 6
    im.save(tmp_path/'a.HEIC', exif=note.tobytes(), quality=95)
    im.save(tmp_path/'a.jpg', exif=note.tobytes(), quality=95)
    a,b = (PILImage.create(tmp_path/f'a.{e}') for e in ('HEIC','jpg'))
    assert a.size==b.size==(40,60)
    for at,colour in (((20,5),(254,0,0)), ((20,55),(0,0,254))):
        assert all(abs(x-y)<30 for o in (a,b) for x,y in zip(o.getpixel(at), colour))
    resize_images(tmp_path, max_size=30, dest=tmp_path/'small')
    small = {o.name:Image.open(o) for o in (tmp_path/'small').iterdir()}
    assert small.keys()=={'a.jpg','a-HEIC.jpg'}, 'the names of both are kept apart'
    for o in small.values(): assert o.size==(20,30) and o.format=='JPEG' and o.getpixel((10,2))[0]>200

def test_without_the_package_the_error_names_it(monkeypatch):
    monkeypatch.setattr(core, '_register_heic', lambda: None)
    Image.init()
    monkeypatch.delitem(Image.OPEN, 'HEIF', raising=False)
    with pytest.raises(core.ImageError, match='pip install pillow-heif'):
        PILImage.create(b'\0\0\0\x18ftypheic'+bytes(40))
    with pytest.raises(core.ImageError, match='film'): PILImage.create(b'\0\0\0\x18ftypisom'+bytes(40))
