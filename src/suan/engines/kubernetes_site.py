"""How a site opens its Kubernetes cluster: from its options to an engine, and what it found and lacks.

Knows the options (docs/how-to/join-kubernetes.md) and which permissions the engine needs.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from suan.engines.kubernetes import KubernetesEngine
from suan.engines.kubernetes_api import Api
from suan.engines.kubernetes_job import INDEXED_SINCE
from suan.engines.kubernetes_objects import Settings, machines_of, unnamed_devices
from suan.engines.table import Opened, known_options
from suan.grid.error import Refused, SiteTrouble
from suan.grid.site import Pool

_OPTIONS = (
    "image",
    "namespace",
    "claim",
    "queue",
    "nodes",
    "python",
    "pod",
    "start_s",
    "kubeconfig",
    "context",
)
_OLDEST = (1, 20)
# What an engine of this kind cannot do, and why: "not yet" may change, "never" is how Kubernetes is.
LIMITS = {
    "container image": "not yet a run's own: tasks name no image, all runs of a site start in the site's",
    "device indices": "never: the device plugin chooses, and a container sees only what it was given",
    "parts of devices": "not yet: MIG profiles and vGPU shares are resources of other names",
    "kubectl logs": "never: a pod's own log goes with the pod and knows no offset; logs are on the volume",
}
# (verb, resource, API group, whether in the site's namespace only)
_NEEDED = (
    ("create", "jobs", "batch", True),
    ("list", "jobs", "batch", True),
    ("delete", "jobs", "batch", True),
    ("list", "pods", "", True),
    ("list", "nodes", "", False),
)
_WANTED = (
    ("list", "pods", "", False, "devices that other namespaces hold are not seen"),
    ("delete", "pods", "", True, "pods of dead machines stay until an administrator removes them"),
)


def open_kubernetes(folder: Path, declared: Sequence[Pool], options: Mapping[str, str]) -> Opened:
    """The engine on this cluster, and a line each about what it found and what it lacks.

    Raises: Refused `bad_engine_option`, `no_kubernetes`, `no_kubeconfig`; SiteTrouble when the API does not
    answer or does not let the site do what it needs.
    """
    known_options("kubernetes", options, _OPTIONS)
    settings = settings_of(options)
    kubeconfig = Path(options["kubeconfig"]) if options.get("kubeconfig") else None
    api = Api(kubeconfig, options.get("context", ""))
    version = api.version()
    if version < _OLDEST:
        what = f"{api.host} is Kubernetes {version[0]}.{version[1]}"
        raise Refused("old_cluster", what, hint="Suan needs 1.20 or later")
    _check_permissions(api, settings.namespace)
    agent = folder.parent / "agent"  # where staged runs lie
    agent.mkdir(parents=True, exist_ok=True)
    engine = KubernetesEngine(folder, declared, api=api, settings=settings, shared=[agent])
    return engine, tuple(_report(api, settings, engine, version))


def settings_of(options: Mapping[str, str]) -> Settings:
    """Raises: Refused `bad_engine_option`."""
    given: dict[str, object] = {
        name: options[name] for name in ("image", "namespace", "queue", "python") if options.get(name)
    }
    try:
        if options.get("claim"):
            given["claim"], _, path = options["claim"].partition(":")
            given["claim_path"] = Path(path)
            if not path.startswith("/"):
                raise ValueError("claim is NAME:/WHERE/IT/IS/MOUNTED/HERE")
        if options.get("nodes"):
            given["nodes"] = dict(_label(text) for text in options["nodes"].split(","))
        if options.get("pod"):
            given["pod"] = json.loads(options["pod"])
        if options.get("start_s"):
            given["start_s"] = int(options["start_s"])
        if "image" not in given:
            raise ValueError("image is missing: what runs start in, with Python 3.9 or later")
        return msgspec.convert(given, Settings)
    except (ValueError, msgspec.ValidationError) as error:
        hint = "see docs/how-to/join-kubernetes.md"
        raise Refused("bad_engine_option", f"engine kubernetes: {error}", hint=hint) from error


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ValueError(f"nodes: {text!r} is no LABEL=VALUE")
    return key, value


def _check_permissions(api: Api, namespace: str) -> None:
    lacking = [
        f"{verb} {resource}" + (f" in {namespace}" if inside else "")
        for verb, resource, group, inside in _NEEDED
        if not api.may(verb, resource, group=group, namespace=namespace if inside else "")
    ]
    if lacking:
        hint = "grant it as docs/how-to/join-kubernetes.md shows"
        raise SiteTrouble("forbidden", f"this user may not {', '.join(lacking)}", hint=hint)


def _report(
    api: Api, settings: Settings, engine: KubernetesEngine, version: tuple[int, int]
) -> Iterator[str]:
    where = f"Kubernetes {version[0]}.{version[1]} at {api.host}, namespace {settings.namespace}"
    yield f"{where}; Jobs {'are Indexed' if version >= INDEXED_SINCE else 'without an index'}"
    for pool, (whole, devices) in engine.free().items():
        yield f"pool {pool}: {whole} whole machines free, {devices} devices free"
    selector = ",".join(f"{key}={value}" for key, value in settings.nodes.items())
    nodes = api.nodes(selector)
    if unnamed := sorted(unnamed_devices(nodes)):
        label = "kubectl label node NAME suan.dev/accelerator=KIND"
        yield f"left out, because no label says what they have ({label}): {', '.join(unnamed)}"
    taken = len(nodes) - len(unnamed) - len(machines_of(nodes, (), settings, ""))
    if taken:
        yield f"left out, not ready, cordoned or tainted: {taken} machines"
    for verb, resource, group, inside, without in _WANTED:
        if not api.may(verb, resource, group=group, namespace=settings.namespace if inside else ""):
            yield f"may not {verb} {resource}{'' if inside else ' of all namespaces'}: {without}"
    if settings.queue and not api.has_queue(settings.namespace, settings.queue):
        yield f"no LocalQueue {settings.queue} in {settings.namespace}: nothing can start until there is one"
