"Packaging: every fact comes from settings.ini (nbdev is not needed to build or to install)."
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup, find_packages

here = Path(__file__).parent
ini = ConfigParser(delimiters=['='], interpolation=None)
ini.read(here/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
extras = 'lite', 'timm', 'ship', 'distributed', 'dev', 'bench'
reqs = {k: cfg.get(f'{k}_requirements', '').split() for k in extras}
reqs['dev'] += reqs['lite'] + reqs['timm'] # the lessons stand on these weights; the tests compare with timm
url = f"https://github.com/{cfg['user']}/{cfg['repo']}"
licences = {'apache2': 'Apache-2.0'}
readme = here/'README.md'

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'],
    author=cfg['author'], author_email=cfg['author_email'], url=url,
    project_urls={'Source': url, 'Course': f'{url}/tree/{cfg["branch"]}/nbs'},
    license=licences[cfg['license']], license_files=['LICENSE'],
    long_description=readme.read_text(encoding='utf-8') if readme.exists() else cfg['description'],
    long_description_content_type='text/markdown', include_package_data=False,
    packages=find_packages(include=[cfg['lib_path'], cfg['lib_path'] + '.*']),
    package_data={cfg['lib_path']: ['**/*.safetensors', '**/*.json', '**/*.md']},
    python_requires='>=' + cfg['min_python'], install_requires=cfg['requirements'].split(),
    extras_require={**reqs, 'all': sorted({r for rs in reqs.values() for r in rs})},
    entry_points={'console_scripts': cfg['console_scripts'].split()},
    classifiers=['Development Status :: 3 - Alpha', 'Natural Language :: English',
                 'Intended Audience :: Education', 'Intended Audience :: Developers',
                 'Topic :: Scientific/Engineering :: Artificial Intelligence',
                 *(f'Programming Language :: Python :: 3.{minor}' for minor in (11, 12, 13))],
    zip_safe=False)
