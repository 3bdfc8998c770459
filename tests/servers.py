"""A web server on this machine that misbehaves on request, for the tests of `coursekit.data.external`."""
import hashlib,http.server,io,tarfile,threading,time
from dataclasses import dataclass,field

def tgz(members, mode='w:gz', root='', compresslevel=1):
    "Bytes of an archive of {name: bytes, or a function that changes the TarInfo}"
    buf = io.BytesIO()
    kw = dict(compresslevel=compresslevel) if mode=='w:gz' else {}
    with tarfile.open(fileobj=buf, mode=mode, **kw) as t:
        for name,o in members.items():
            m = tarfile.TarInfo(root+name)
            if callable(o):
                o(m)
                t.addfile(m)
            else:
                m.size = len(o)
                t.addfile(m, io.BytesIO(o))
    return buf.getvalue()

def linked(target, kind=tarfile.SYMTYPE):
    def _f(m): m.type,m.linkname = kind,target
    return _f

@dataclass
class Item:
    "What the server does at one path; `plan` lists one behaviour per request, the last one goes on for ever"
    body: bytes = b''
    plan: tuple = ('ok',)
    ranges: bool = True
    etag: str = '"v1"'
    ctype: str = 'application/x-tar'
    headers: dict = field(default_factory=dict)      # more of them; None takes one away
    requests: list = field(default_factory=list)     # (Range header, If-Range header)
    logins: list = field(default_factory=list)       # Authorization headers
    sent: int = 0                                     # bytes of bodies sent

class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *a): pass

    def do_GET(self):
        item = self.server.items.get(self.path.split('?')[0])
        if item is None: return self.send_error(404)
        with self.server.guard:
            act = item.plan[min(len(item.requests), len(item.plan)-1)]
            item.requests.append((self.headers.get('Range'), self.headers.get('If-Range')))
            item.logins.append(self.headers.get('Authorization'))
        if isinstance(act,int): return self.send_error(act)
        if act=='reset':
            self.close_connection = True
            return self.connection.close()
        self.answer(item, act)

    def send_for_ever(self, part, pause=0):
        "The same again and again"
        while not self.server.stop.wait(pause):
            try: self.wfile.write(part)
            except OSError: break
        self.close_connection = True

    def dawdle(self, pause):
        "Headers without end, one byte after the other"
        self.flush_headers()
        self.send_for_ever(b'X', pause)

    def go_to(self, address):
        "A redirect"
        self._headers_buffer = []
        self.send_response(302)
        for k,v in {'Location':address, 'Content-Length':'0'}.items(): self.send_header(k, v)
        self.end_headers()

    def answer(self, item, act):
        what,_,arg = act.partition(':')
        start,n = 0,len(item.body)
        rng,cond = self.headers.get('Range'),self.headers.get('If-Range')
        if item.ranges and rng and (not cond or cond==item.etag):
            start = int(rng.removeprefix('bytes=').rstrip('-'))
        if start>=n>0: return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            first = start + int(arg or 0) if what=='shifted' else start
            self.send_header('Content-Range', arg if what=='range' else f'bytes {first}-{n-1}/{n}')
        if item.etag: self.send_header('ETag', item.etag)
        if what=='goto': return self.go_to(arg)
        if what=='dawdle': return self.dawdle(float(arg))
        for k,v in {'Content-Type':item.ctype, 'Content-Length':str(n-start), **item.headers}.items():
            if v is not None: self.send_header(k, v)
        if item.headers.get('Content-Length', '') is None: self.close_connection = True
        self.end_headers()
        part = item.body[start:]
        if what=='endless': return self.send_for_ever(part)
        if what=='drip': return self.send_for_ever(b'x', float(arg))
        if what in ('cut','stall'): part = part[:int(arg)]
        for i in range(0, len(part), 2**16):
            if what=='slow': time.sleep(float(arg))
            try: self.wfile.write(part[i:i+2**16])
            except OSError:
                self.close_connection = True
                return
            item.sent += len(part[i:i+2**16])
        if what=='stall': self.server.stop.wait(30)
        if what in ('cut','stall'): self.close_connection = True

class FaultServer(http.server.ThreadingHTTPServer):
    "`with FaultServer() as s: s.put('/a.tgz', body, plan=('cut:100','ok'))`"
    daemon_threads = True
    def __init__(self):
        super().__init__(('127.0.0.1',0), _Handler)
        self.items,self.stop,self.guard = {},threading.Event(),threading.Lock()
    def handle_error(self, *a): pass
    def put(self, path, body, *plan, **kw):
        "Offer `body` at `path`; returns (its address, its `Item`)"
        self.items[path] = Item(body, plan or ('ok',), **kw)
        return f'http://127.0.0.1:{self.server_port}{path}',self.items[path]
    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self
    def __exit__(self, *a):
        self.stop.set()
        self.shutdown()
        self.server_close()

def check_of(body): return len(body),hashlib.md5(body[:2**20]).hexdigest()
