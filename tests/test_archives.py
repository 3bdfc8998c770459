"Archives that lie, and honest ones that look odd: what is unpacked, what is refused, and how quickly."
import contextlib, gzip, io, os, random, stat, struct, tarfile, time, zipfile
from pathlib import Path
import pytest
from coursekit.data.external import untar_data
from coursekit.fetch.archive import ArchiveError, UnsafeArchiveError, file_extract
from servers import linked, tgz

@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv('COURSEKIT_HOME', str(tmp_path/'home'))
    return tmp_path/'home'

@pytest.fixture
def unpack(tmp_path):
    "Unpacks the bytes of an archive; returns {name: content, or what a link says}"
    def _unpack(data, **kw):
        (tmp_path/'a.bin').write_bytes(data)
        dest = tmp_path/f'out{len([*tmp_path.iterdir()])}'
        dest.mkdir()
        start = time.monotonic()
        try: root = file_extract(tmp_path/'a.bin', dest, **kw)
        finally: assert time.monotonic()-start<5
        return {str(o.relative_to(root)): os.readlink(o) if o.is_symlink() else o.read_bytes()
                for o in root.rglob('*') if o.is_symlink() or o.is_file()}
    return _unpack

def block(name='f', size=b'00000000005\0', kind=b'0', magic=b'ustar\00000', link=b''):
    "One header of a tar, with whatever its fields are to say"
    b = bytearray(512)
    for at,field in ((0,name.encode()), (100,b'0000644\0'), (124,size), (156,kind), (157,link), (257,magic)):
        b[at:at+len(field)] = field
    b[148:156] = b' '*8
    b[148:156] = b'%06o\0 ' % sum(b)
    return bytes(b)

def octal(n): return b'%011o\0' % n
def padded(b): return b + bytes(-len(b)%512)
def before(data, kind=b'x'): # A header for the next header
    return block('x', octal(len(data)), kind) + padded(data)
def fact(key, value): # A line of it, which begins with its own length
    line = b' %s=%s\n' % (key, value)
    return b'%d%s' % (next(n for n in range(9**6) if len(b'%d%s' % (n, line))==n), line)
FINE = block('fine') + padded(b'fine!')

def zipped(**members):
    "Bytes of a zip; a value is the content, or a pair of the mode and the content"
    buf = io.BytesIO()
    with zipfile.ZipFile(buf, 'w', zipfile.ZIP_DEFLATED) as z:
        for name,o in members.items():
            info = zipfile.ZipInfo(name)
            info.create_system = 3
            mode,content = o if isinstance(o, tuple) else (0o644,o)
            info.external_attr,info.compress_type = mode<<16,zipfile.ZIP_DEFLATED
            z.writestr(info, content)
    return buf.getvalue()
LINK = stat.S_IFLNK | 0o777

# ------------------------------------------------------------------ links
GOOD_LINKS = dict(
    file    = ({'d/a':b'A', 'd/s':linked('a')}, {'a':b'A', 's':'a'}),
    later   = ({'d/s':linked('a'), 'd/a':b'A'}, {'a':b'A', 's':'a'}),
    folder  = ({'d/a/x':b'', 'd/b/y':b'', 'd/b/s':linked('../a')}, {'a/x':b'', 'b/y':b'', 'b/s':'../a'}),
    through = ({'d/a/x':b'', 'd/s':linked('a'), 'd/t':linked('s/x')}, {'a/x':b'', 's':'a', 't':'s/x'}),
    chain   = ({'d/l.so.1.2':b'', 'd/l.so.1':linked('l.so.1.2'), 'd/l.so':linked('l.so.1')},
               {'l.so.1.2':b'', 'l.so.1':'l.so.1.2', 'l.so':'l.so.1'}),
    nowhere = ({'d/a':b'', 'd/s':linked('not/there')}, {'a':b'', 's':'not/there'}),
    blank   = ({'d/a':b'A', 'd/s':linked('a'), 'd/s ':b''}, {'a':b'A', 's':'a', 's ':b''}))

@pytest.mark.parametrize('name', GOOD_LINKS)
def test_links_within_the_data(name, unpack):
    members,want = GOOD_LINKS[name]
    assert unpack(tgz(members))==want

def test_later_members_win(unpack):
    "A file after a link of the same name, a link after a file, a file twice"
    buf = io.BytesIO()
    with tarfile.open(fileobj=buf, mode='w') as t:
        for name,o in [('d/a',b'A'), ('d/s',linked('a')), ('d/s',b'file'),
                       ('d/t',b'file'), ('d/t',linked('a')), ('d/u',b'1'),
                       ('d/h',linked('d/u', tarfile.LNKTYPE)), ('d/u',b'2')]:
            m = tarfile.TarInfo(name)
            if callable(o): o(m)
            else: m.size = len(o)
            t.addfile(m, None if callable(o) else io.BytesIO(o))
    assert unpack(buf.getvalue())=={'a':b'A', 's':b'file', 't':'a', 'u':b'2', 'h':b'1'}

BAD_LINKS = dict(
    renamed    = ({'d/b/c/d/e/f/g':b'x', 'd/train':linked('b/c/d/e/f'),
                   'd/models':linked('../d/train/../../../../outside')}, 'outside'),
    climbs     = ({'d/a':b'', 'd/s':linked('../d/a')}, 'outside'),               # `d` gets another name
    other_top  = ({'d/a':b'', '__MACOSX/s':linked('../d/a')}, 'outside'),
    absolute   = ({'d/a':b'', 'd/s':linked('/d/a')}, 'absolute'),
    drive      = ({'d/a':b'', 'd/s':linked('C:/a')}, 'absolute'),
    backslash  = ({'d/a':b'', 'd/s':linked('..\\..\\a')}, 'impossible'),
    no_folder  = ({'d/a':b'', 'd/s':linked('x/../a')}, 'no folder'),
    itself     = ({'d/a':b'', 'd/s':linked('s')}, 'circles'),
    circle     = ({'d/a':b'', 'd/s':linked('t'), 'd/t':linked('s')}, 'circles'),
    here       = ({'d/a':b'', 'd/s':linked('.')}, 'never end'),
    above      = ({'d/a/b/c':b'', 'd/a/b/s':linked('..')}, 'never end'),
    maze       = ({'d/a/f':b'', 'd/b/f':b'', 'd/a/s':linked('../b'), 'd/b/s':linked('../a')}, 'never end'),
    laughs     = ({**{f'd/{i}/f':b'' for i in range(9)},
                   **{f'd/{i}/{k}':linked(f'../{i+1}') for i in range(8) for k in 'ab'}}, 'never end'),
    through_it = ({'d/real/f':b'', 'd/s':linked('real'), 'd/s/evil':b''}, 'a folder, and a file or a link'),
    long       = ({'d/a':b'', 'd/s':linked('a/'*600)}, 'very long'),
    hard_above = ({'d/a':b'', 'd/h':linked('../../etc/passwd', tarfile.LNKTYPE)}, 'leaves the folder'),
    hard_link  = ({'d/a':b'', 'd/s':linked('a'), 'd/h':linked('d/s', tarfile.LNKTYPE)}, 'hard link'),
    hard_dir   = ({'d/a/b':b'', 'd/h':linked('d/a', tarfile.LNKTYPE)}, 'hard link'))

@pytest.mark.parametrize('name', BAD_LINKS)
def test_links_that_are_refused(name, unpack):
    members,why = BAD_LINKS[name]
    with pytest.raises(UnsafeArchiveError, match=why): unpack(tgz(members))

def test_refused_links_in_zips(unpack):
    for target in ('../../x', '/etc', 'a/../..', 'x'*5000, '\0', ''):
        with pytest.raises(UnsafeArchiveError): unpack(zipped(**{'d/a':b'', 'd/s':(LINK,target.encode())}))
    assert unpack(zipped(**{'d/a':b'', 'd/s':(LINK,b'a')}))=={'a':b'', 's':'a'}

def test_many_links_are_judged_quickly(unpack):
    n = 1000
    members = {'d/a':b'', **{f'd/{i}':linked(f'{i+1}') for i in range(n)}}
    with pytest.raises(UnsafeArchiveError, match='too many links'): unpack(tgz(members))
    assert len(unpack(tgz({'d/a':b'', **{f'd/x/{i}':linked('../a') for i in range(n)}})))==n+1

def test_nothing_escapes_a_cache_behind_a_long_link(home, tmp_path):
    "Paths near the system's limit, reached through a link, and a set that is there under the same name"
    deep = tmp_path.joinpath(*['long'*50]*3)
    deep.mkdir(parents=True)
    home.symlink_to(deep)
    path = '/'.join(['n'*100]*9)
    data = tgz({f'd/{path}/f':b'', 'd/s':linked(path), 'd/models':linked('s/' + '../'*10 + 'outside')})
    (tmp_path/'nice.tgz').write_bytes(data)
    with pytest.raises(UnsafeArchiveError, match='outside'): untar_data(tmp_path/'nice.tgz')
    assert not [*home.glob('data/nice*')]

# ------------------------------------------------------------------ headers of tar
def test_digits_without_end_are_read_quickly(unpack):
    "CVE-2024-6232: `tarfile` of Python 3.11.7 takes half an hour"
    for data in (b'1'*2_000_000, b'1'*60_000, b'12 '*20_000, b'99999 comment='+b'1'*50_000):
        with pytest.raises(ArchiveError): unpack(gzip.compress(before(data) + FINE))
    assert unpack(gzip.compress(before(fact(b'comment', b'1'*60_000))*20 + FINE))=={'fine':b'fine!'}

BAD_TARS = dict(
    long_name   = (before(bytes(10**7), b'L'), 'bytes'),
    long_target = (before(bytes(2**20+1), b'K'), 'bytes'),
    too_long    = (before(b'a'*5000, b'L') + block(), 'path of more than'),
    too_deep    = (before(b'a/'*200, b'L') + block(), 'path of more than'),
    huge        = (block(size=octal(8**11-1)), 'unpacks to more than'),
    binary_huge = (block(size=b'\x80'+b'\x7f'*11), 'unpacks to more than'),
    negative    = (block(size=b'\xff'*11+b'\xfb'), 'impossible'),
    minus       = (block(size=b'-0000000005\0'), 'impossible'),
    pax_size    = (before(fact(b'size', b'-5')) + block(), 'impossible'),
    pax_short   = (before(b'5 path=abc\n\n') + block(), 'damaged'),
    pax_zero    = (before(b'0 path=') + block(), 'damaged'),
    all_members = (before(fact(b'path', b'a'), b'g') + block(), 'all members'),
    sparse      = (block(kind=b'S', magic=b'ustar  \0') + padded(b'hello'), '--sparse'),
    pax_sparse  = (before(fact(b'GNU.sparse.major', b'1')) + block(), '--sparse'),
    checksum    = (FINE + block()[:150] + b'9' + block()[151:], 'damaged'),
    cut_header  = (FINE + block()[:300], 'middle of a header'),
    cut_content = (FINE + block(size=octal(5000)) + b'x'*512, 'middle of a member'),
    control     = (block('a\x1b[31m') + padded(b'hello'), 'control characters'),
    newline     = (block('a\nb') + padded(b'hello'), 'control characters'),
    not_utf8    = (before(b'\xe4bc', b'L') + block(), 'UTF-8'),
    device      = (block(kind=b'3'), 'device'),
    unknown     = (block(kind=b'M'), 'special file'))

@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize('name', BAD_TARS)
def test_headers_that_lie(name, packed, unpack):
    data,why = BAD_TARS[name]
    if not name.startswith('cut'): data += bytes(1024)
    with pytest.raises(ArchiveError, match=why): unpack(gzip.compress(data) if packed else data)

def test_odd_but_honest_headers(unpack):
    hello = padded(b'hello')
    data = (before(fact(b'comment', b'0'*40), b'g')                                          # as git writes
            + block('d/', octal(0), b'0') + block('d/a', kind=b'\0', magic=b'') + hello      # before POSIX
            + before(fact(b'path', 'd/ä'.encode()) + fact(b'mtime', b'1.5')) + block('y') + hello
            + block('d/b', size=b'\x80' + bytes(10) + b'\5') + hello)
    assert unpack(gzip.compress(data))=={'a':b'hello', 'ä':b'hello', 'b':b'hello'}

def test_packed_twice_and_no_tar(unpack):
    for data in (gzip.compress(tgz({'a':b''})), gzip.compress(b'name,label\n'*100)):
        with pytest.raises(ArchiveError, match='no tar archive at all'): unpack(data)

# named, because bytes as a name hold the time, and the processes of pytest must agree on names
@pytest.mark.parametrize('data', [tgz({}), tgz({'d':lambda m: setattr(m, 'type', tarfile.DIRTYPE)}), zipped(),
                                  zipped(**{'d/':b'', 'd/e/':b''})],
                         ids=['empty tar','tar of a folder','empty zip','zip of folders'])
def test_archives_without_a_file(data, tmp_path, home):
    (tmp_path/'hollow.zip').write_bytes(data)
    with pytest.raises(ArchiveError, match='there is no file in it'): untar_data(tmp_path/'hollow.zip')
    assert [*home.glob('data/*')]==[]

# ------------------------------------------------------------------ zip
def test_zips_that_lie(unpack):
    good = zipped(**{'d/a':b'A'*50, 'd/b':b'B'*50})
    with zipfile.ZipFile(io.BytesIO(good)) as z: at = z.infolist()[1].header_offset
    toc = good.index(b'PK\1\2')
    second = good.index(b'PK\1\2', toc+4)
    def refused(at, b, kind=ArchiveError, why=None): # with the bytes `b` there
        with pytest.raises(kind, match=why): unpack(good[:at] + b + good[at+len(b):])
    refused(second+42, struct.pack('<L', 5), UnsafeArchiveError, 'overlaps')
    refused(second+8, b'\1\0', why='encrypted')
    refused(second+16, b'abcd', why='CRC')
    refused(second+24, b'\xfe\xff\xff\xff', UnsafeArchiveError, 'more than')             # its size
    refused(second+42, b'\xff\xff\xff\xff')                                              # zip64, without
    refused(at, b'XXXX')
    with pytest.raises(ArchiveError): unpack(good[:-30])
    for name in ('d/a\0.png', 'd/\x1b[2J', 'd/a\nb'):
        buf = io.BytesIO()
        with zipfile.ZipFile(buf, 'w') as z:
            info = zipfile.ZipInfo('x')
            info.filename = name
            z.writestr(info, b'')
        with pytest.raises(UnsafeArchiveError, match='control characters'): unpack(buf.getvalue())

def test_names_that_differ_in_case(unpack):
    "Both are kept; where the disk cannot tell them apart, the archive is refused"
    members = {'d/X.jpg':b'1', 'd/x.jpg':b'2'}
    with contextlib.suppress(ArchiveError): assert unpack(tgz(members))=={'X.jpg':b'1', 'x.jpg':b'2'}

def test_names_that_only_windows_refuses(unpack):
    names = {'con.txt':b'', 'Inc./a':b'', 'aux/b':b'', 'a:b':b''}
    if os.name=='nt':
        with pytest.raises(ArchiveError, match='Windows'): unpack(tgz(names, root='d/'))
    else: assert unpack(tgz(names, root='d/'))==names

def test_number_of_members_is_bounded(unpack):
    with pytest.raises(UnsafeArchiveError, match='far too many members'):
        unpack(tgz({f'd/{i}':b'' for i in range(200)}), max_files=100)

# ------------------------------------------------------------------ noise
@pytest.mark.parametrize('kind', ['tar', 'tgz', 'zip'])
def test_damage_anywhere_is_said(kind, unpack, tmp_path):
    "A few bytes changed at random: the archive is as it was, or an `ArchiveError`, and nothing else"
    members = {f'd/{c}/{i}.txt':f'{c}{i}'.encode()*20 for c in 'ab' for i in range(3)}
    good = zipped(**members) if kind=='zip' else tgz(members, 'w' if kind=='tar' else 'w:gz')
    rng,n_refused = random.Random(0),0
    for _ in range(150):
        bad = bytearray(good)
        for _ in range(rng.choice((1,1,4))): bad[rng.randrange(len(good))] = rng.randrange(256)
        try: unpack(bytes(bad))
        except ArchiveError: n_refused += 1
    assert n_refused>20 and {o.name[:3] for o in Path(tmp_path).iterdir()} <= {'out', 'a.b', 'hom'}
