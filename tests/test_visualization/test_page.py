"""docs/visualization.md against what is there."""

import re

from tools_helpers import ROOT

PAGE = (ROOT / 'docs/visualization.md').read_text('utf-8')
PUBLISHED = ['vis_cam', 'vis_field', 'vis_feature', 'vis_tsne', 'get_ssim', 'get_throughput',
             'get_flops']  # fmt: skip


def test_the_tools_and_pages_it_names_are_there():
    tools = set(re.findall(r'tools/[\w/]+\.py', PAGE))
    pages = set(re.findall(r'\((?:\.\./)?([\w/.]+\.md)', PAGE))
    assert len(tools) > 8 and pages
    missing = [path for path in tools if not (ROOT / path).exists()]
    assert missing + [page for page in pages if not (ROOT / 'docs' / page).exists()] == []


def test_it_names_every_tool():
    assert [
        p.name for p in ROOT.glob('tools/visualization/*.py') if f'/{p.name}`' not in PAGE
    ] == []


def test_its_links_to_sections_lead_somewhere():
    heads = {
        re.sub(r'[^\w -]', '', head.lower()).replace(' ', '-')
        for head in re.findall(r'^#+ (.*)$', PAGE, re.MULTILINE)
    }
    assert set(re.findall(r'\]\(#([^)]+)\)', PAGE)) <= heads


def test_each_published_tool_has_a_counterpart():
    rows = dict(re.findall(r'^\| `(\w+)` \| `(tools/\S+)', PAGE, re.MULTILINE))
    assert list(rows) == PUBLISHED
    assert all((ROOT / path.strip('`')).exists() for path in rows.values())
