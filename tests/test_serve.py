"""The web app and the widgets that let others use a model: many at once, and whatever they upload.

`COURSEKIT_UPLOADS=1000 pytest -s tests/test_serve.py -k many` measures in full; the default is 150"""
import _thread, io, os, pickle, socket, threading, time, zipfile
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
import numpy as np, pytest
from PIL import Image
from torch import nn
from coursekit.core import set_seed
from coursekit.learner import Learner
from coursekit.serve import Classifier, ImageClassifierApp, Refused, Server, web_app
from coursekit.vision.core import Resize
from coursekit.vision.data import ImageDataLoaders

httpx = pytest.importorskip('httpx', reason='httpx comes with the dev extra')
pytest.importorskip('fastapi', reason='fastapi comes with the extras `ship` and `dev`')
pytest.importorskip('uvicorn', reason='uvicorn comes with the extras `ship` and `dev`')
MAX_BYTES,MAX_PIXELS = 200_000,4_000_000

@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    "Thirty pictures of two kinds, whose answers differ"
    path,rng = tmp_path_factory.mktemp('pictures'),np.random.default_rng(0)
    for i in range(30):
        px = rng.integers(0, 256, (4,4,3), dtype=np.uint8)
        Image.fromarray(px).resize((60+i,90-i)).save(path/f'{("cat","dog")[i%2]}_{i}.jpg')
    return path

@pytest.fixture(scope='module')
def learn(pictures):
    "A small network that nobody has trained: its answers are as good as any to tell pictures apart"
    dls = ImageDataLoaders.from_name_func(pictures, sorted(pictures.iterdir()), lambda o: o[:3], bs=8,
                                          item_tfms=Resize(32), num_workers=0)
    set_seed(1)
    conv = nn.Conv2d(3, 8, 3, stride=2)
    nn.init.normal_(conv.weight, std=0.5)
    head = nn.AdaptiveAvgPool2d(2),nn.Flatten(),nn.Linear(32,2)
    return Learner(dls, nn.Sequential(conv, nn.ReLU(), *head))

@pytest.fixture(scope='module')
def server(learn):
    with Server(web_app(learn, max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS)) as s: yield s

@pytest.fixture(scope='module')
def client(server):
    with httpx.Client(base_url=server.url, timeout=60, limits=httpx.Limits(max_connections=60)) as c: yield c

def upload(client, raw, name='a.jpg', kind='image/jpeg'):
    return client.post('/predict', files={'file':(name,raw,kind)})

def encoded(im, kind='png', **kwargs):
    res = io.BytesIO()
    im.save(res, kind, **kwargs)
    return res.getvalue()

def probabilities(learn, raw):
    with learn.no_bar(), learn.no_logging(): probs = learn.predict(raw)[2].tolist()
    return dict(zip(learn.dls.vocab, probs))

def close(a, b): return a.keys()==b.keys() and all(abs(a[k]-b[k])<1e-5 for k in b)

def megabytes():
    with open('/proc/self/statm') as f: return int(f.read().split()[1])*os.sysconf('SC_PAGE_SIZE')/1e6

def test_many_uploads_at_once(client, learn, pictures):
    "No answer is wrong, none is lost, and memory stays what it was"
    n = int(os.environ.get('COURSEKIT_UPLOADS', 150))
    raws = [o.read_bytes() for o in sorted(pictures.iterdir())]
    right = [probabilities(learn, o) for o in raws]
    assert len({round(o['cat'], 4) for o in right})>20
    def ask(i):
        reply = upload(client, raws[i%30])
        return reply.status_code==200 and close(reply.json()['probabilities'], right[i%30])
    with ThreadPoolExecutor(50) as pool:
        assert all(pool.map(ask, range(100)))                  # threads and connections begin
        before,began = megabytes() if os.path.exists('/proc/self/statm') else None,time.perf_counter()
        answers = list(pool.map(ask, range(n)))
    seconds = time.perf_counter()-began
    assert sum(answers)==n
    if before is None: return
    grown = megabytes()-before
    print(f'\n{n} uploads from 50 threads: {sum(answers)} right, {seconds:.1f} s, memory {grown:+.1f} MB')
    assert grown<30

def bomb(): return encoded(Image.new('1', (12_000,12_000)), compress_level=9)
def zipped():
    res = io.BytesIO()
    with zipfile.ZipFile(res, 'w') as z: z.writestr('a.jpg', b'\xff\xd8\xff')
    return res.getvalue()
def a_jpeg(): return encoded(Image.effect_noise((300,200), 90).convert('RGB'), 'jpeg')
def a_png(): return encoded(Image.effect_noise((100,80), 90))
def flipped(raw, at): return raw[:at] + bytes([raw[at]^0xff]) + raw[at+1:]

BAD = { # what is uploaded: (bytes, status, a part of the reason)
    'an empty file':         (lambda: b'', 400, 'empty'),
    'text called .jpg':      (lambda: b'I am no picture', 415, 'no picture that we open'),
    'an SVG drawing':        (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', 415, 'an SVG drawing'),
    'a web page':            (lambda: b'<!doctype html><script>alert(1)</script>', 415, 'a web page'),
    'a PDF':                 (lambda: b'%PDF-1.7', 415, 'a PDF'),
    'a PostScript file':     (lambda: b'%!PS-Adobe-3.0', 415, 'PostScript'),
    'an archive':            (zipped, 415, 'no picture that we open'),
    'a program':             (lambda: b'MZ'+bytes(500), 415, 'no picture that we open'),
    'a pickle':              (lambda: b'\x80\x04cos\nsystem\n.', 415, 'no picture that we open'),
    'random bytes':          (lambda: np.random.default_rng(0).bytes(5000), 415, 'no picture that we open'),
    'half a JPEG':           (lambda: a_jpeg()[:6000], 415, 'truncated'),
    'the head of a JPEG':    (lambda: a_jpeg()[:60], 415, 'Cannot read'),
    'half a PNG':            (lambda: a_png()[:2000], 415, 'Cannot read'),
    'a PNG with a wrong bit':(lambda: flipped(a_png(), 60), 415, 'Cannot read'),
    'a PNG, signature only': (lambda: a_png()[:8], 415, 'Cannot read'),
    'a GIF, signature only': (lambda: b'GIF89a', 415, 'Cannot read'),
    'a decompression bomb':  (bomb, 413, '12000 × 12000 pixels'),
    'a thin giant':          (lambda: encoded(Image.new('L', (1,65_535))), 413, 'pixels'),
    'too many bytes':        (lambda: bytes(MAX_BYTES+1), 413, 'too large'),
    'far too many bytes':    (lambda: bytes(20*MAX_BYTES), 413, 'too large'),
}

@pytest.mark.parametrize('what', BAD)
def test_bad_uploads_are_refused_with_a_reason(client, what):
    make,status,reason = BAD[what]
    reply = upload(client, make())
    detail = reply.json()['detail']
    assert (reply.status_code,reason in detail)==(status,True), detail
    assert '`' not in detail and len(detail)<300, detail         # advice for programmers stays here

@pytest.mark.parametrize('kwargs,status,reason', [
    (dict(files={'photo':b'abc'}), 422, 'in the field `file`'),
    (dict(data={'file':'abc'}), 415, 'x-www-form-urlencoded'),
    (dict(files={'file':(None,'abc')}), 422, 'as a file'),
    (dict(files=[('file',('a.jpg',b'a')), ('file',('b.jpg',b'b'))]), 422, 'One picture at a time'),
    (dict(files={'file':b'a'}, data={'more':'x'}), 422, 'One picture at a time'),
    (dict(json={'file':'abc'}), 415, 'application/json'),
    (dict(content=b'abc', headers={'content-type':'image/jpeg'}), 415, 'image/jpeg'),
    (dict(), 415, 'nothing'),
    (dict(content=b'abc', headers={'content-type':'multipart/form-data'}), 400, 'boundary'),
    (dict(content=b'abc', headers={'content-type':'multipart/form-data; boundary=x'}), (400,422), ''),
])
def test_bad_requests_are_refused_with_a_reason(client, kwargs, status, reason):
    reply = client.post('/predict', **kwargs)
    assert reply.status_code in (status if isinstance(status, tuple) else (status,)), reply.text
    assert reason in reply.json()['detail'] and reply.json()['detail']

def test_other_methods_and_places(client):
    assert client.get('/predict').status_code==405
    assert client.put('/predict', content=b'a').status_code==405
    assert client.post('/train').status_code==404
    assert client.get('/').status_code==200

def test_refusals_do_not_wear_it_out(client, learn):
    "After many bad uploads at once, the next good one is answered"
    raws = [make() for make,_,_ in list(BAD.values())[:18]]*4
    with ThreadPoolExecutor(20) as pool:
        status = list(pool.map(lambda o: upload(client, o).status_code, raws))
    assert all(400<=o<500 for o in status)
    raw = a_jpeg()
    assert close(upload(client, raw).json()['probabilities'], probabilities(learn, raw))

def kinds_of_picture():
    im = Image.effect_noise((50,40), 90).resize((100,80))
    red = Image.merge('RGB', (im, im.point(lambda o: o//2), im.point(lambda o: 255-o)))
    turned = Image.Exif()
    turned[0x0112] = 6
    deep = Image.fromarray((np.asarray(im).astype('uint16')*257))
    return {'RGB':encoded(red), 'grey':encoded(im), 'one bit':encoded(im.convert('1')),
            '16 bits':encoded(deep), 'palette':encoded(red.quantize(16)),
            'alpha':encoded(red.convert('RGBA')),
            'CMYK':encoded(red.convert('CMYK'), 'jpeg'), 'turned':encoded(red, 'jpeg', exif=turned),
            'progressive':encoded(red, 'jpeg', progressive=True), 'WebP':encoded(red, 'webp'),
            'BMP':encoded(red, 'bmp'), 'TIFF':encoded(red, 'tiff'),
            'animated':encoded(red, 'gif', save_all=True, append_images=[red.rotate(90)])}

def test_any_picture_is_taken(client, learn):
    "And gets the answer of `predict`: turned upright, of an animation the first"
    found = {k: (upload(client, raw, f'{k}.dat', 'application/octet-stream'),raw)
             for k,raw in kinds_of_picture().items()}
    for k,(reply,raw) in found.items():
        assert reply.status_code==200, f'{k}: {reply.text}'
        assert close(reply.json()['probabilities'], probabilities(learn, raw)), k
    answer = found['RGB'][0].json()
    names = [*answer['probabilities']]
    assert answer['label']==names[0]==max(names, key=answer['probabilities'].get)

def test_too_many_at_a_time_are_asked_to_come_back(learn):
    "None is lost that was taken, and afterwards it takes more"
    raw,busy,go,predict = a_jpeg(),threading.Event(),threading.Event(),learn.predict
    def slow(*args, **kwargs):
        busy.set()
        go.wait(20)
        return predict(*args, **kwargs)
    learn.predict = slow
    try:
        app = web_app(learn, max_waiting=3)
        with Server(app) as s, httpx.Client(base_url=s.url, timeout=30) as c:
            with ThreadPoolExecutor(8) as pool:
                first = [pool.submit(upload, c, raw) for _ in range(3)]
                assert busy.wait(10)
                while app.state.waiting<3: time.sleep(0.01)
                late = upload(c, raw)
                assert late.headers['Retry-After']=='2' and 'try again' in late.json()['detail']
                assert c.get('/').status_code==200                  # the page is not kept waiting
                go.set()
                assert [o.result().status_code for o in first]==[200]*3
            assert upload(c, raw).status_code==200
    finally: del learn.predict

def test_an_upload_that_never_ends(learn):
    with Server(web_app(learn, seconds=0.3)) as s:
        host,port = s.url.removeprefix('http://').split(':')
        with socket.create_connection((host,int(port)), timeout=10) as c:
            c.sendall(b'POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n'
                      b'Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n')
            assert b'408' in c.recv(4000)
        assert httpx.get(s.url).status_code==200

def test_a_fault_of_the_model_is_no_fault_of_the_picture(learn):
    "A 500, and the server stays up"
    def broken(*args, **kwargs): raise RuntimeError('the model is broken')
    learn.predict = broken
    try:
        with Server(web_app(learn)) as s, httpx.Client(base_url=s.url) as c:
            assert [upload(c, a_jpeg()).status_code for _ in range(2)]==[500]*2
            assert c.get('/').status_code==200
    finally: del learn.predict

def test_a_port_that_is_taken(server, learn):
    with pytest.raises(OSError): Server(web_app(learn), port=int(server.url.rpartition(':')[2]))

def test_stop_ends_all_threads(learn):
    before = set(threading.enumerate())
    s = Server(web_app(learn))
    upload(httpx.Client(base_url=s.url), a_jpeg())
    s.stop()
    s.stop()
    assert 'stopped' in repr(s)
    with pytest.raises(httpx.ConnectError): httpx.get(s.url)
    assert not [o for o in set(threading.enumerate())-before if o.is_alive()]

def test_models_that_have_no_classes():
    for model in (None, object(), nn.Linear(2,2)):
        with pytest.raises(TypeError, match='a learner with classes'): web_app(model)

def test_the_page_escapes_its_title(learn):
    with Server(web_app(learn, title='<b>Cats & "dogs"')) as s: text = httpx.get(s.url).text
    assert '<b>Cats' not in text and '&lt;b&gt;Cats &amp; ' in text

# The widgets

def put(app, raw, name='a.jpg'): # As the browser does
    app.upload.value = ({'name':name, 'type':'', 'size':len(raw), 'content':memoryview(raw),
                         'last_modified':datetime.now()},)

def test_the_widgets_answer(learn):
    app,raw = ImageClassifierApp(learn, n=1),a_jpeg()
    put(app, raw)
    best,p = max(probabilities(learn, raw).items(), key=lambda o: o[1])
    assert app.lines()==[f'{best}: {p:.1%}'] and f'{best}: {p:.1%}' in app.text.value
    assert Image.open(io.BytesIO(app.image.value)).size==(300,200)

def test_the_widgets_say_what_is_wrong(learn):
    app = ImageClassifierApp(learn, max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS)
    for make,_,reason in BAD.values():
        put(app, a_jpeg())
        assert app.answer and not app.problem
        put(app, make())
        assert app.answer is None and reason in app.problem and app.image.layout.display=='none'

def test_a_classifier_refuses_as_the_app_does(learn):
    classify = Classifier(learn, MAX_BYTES, MAX_PIXELS)
    for make,status,reason in BAD.values():
        with pytest.raises(Refused, match=reason) as e: classify(make())
        assert e.value.status==status

# The command

def test_the_command_serve(learn, pictures, tmp_path, capsys):
    from coursekit.course.maintain import main
    file,answers = str(learn.export(tmp_path/'x')),[]
    def visitor(): # waits for the address, sends a picture, and presses Ctrl-C
        end = time.monotonic()+30
        while not (said := capsys.readouterr().out) and time.monotonic()<end: time.sleep(0.05)
        try:
            with httpx.Client(base_url=said.split()[0], timeout=60) as c:
                answers.append(upload(c, (pictures/'cat_0.jpg').read_bytes()).json())
        finally: _thread.interrupt_main()
    guest = threading.Thread(target=visitor)
    guest.start()
    assert main(['serve', file, '--port', '0', '--title', 'Pets?'])==0
    guest.join()
    want = probabilities(learn, (pictures/'cat_0.jpg').read_bytes())
    assert answers[0]['probabilities']==pytest.approx(want)
    (tmp_path/'y.pkl').write_bytes(pickle.dumps([1]))
    taken = socket.create_server(('127.0.0.1', 0))
    with taken:
        port = str(taken.getsockname()[1])
        for argv,why in (([str(tmp_path/'y.pkl')],'trust=True'), ([file,'--port',port],'--port 0'),
                         ([str(tmp_path/'none')],'no such file'), ([file,'--port','99999'],'0-65535')):
            assert main(['serve', *argv])==2
            assert why in capsys.readouterr().err
