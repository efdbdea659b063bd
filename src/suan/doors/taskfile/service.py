"""`replicas:` (ours) and `service:` or `pool:` (SkyServe's): what makes a job a service."""

from suan.doors.taskfile.document import Mapping
from suan.doors.taskfile.keys import Keys, as_whole, first_of, refuse
from suan.grid.job import Replicas

_POLICY_SET_ASIDE = {
    "num_overprovision": "the grid keeps the replicas that the load needs",
    "target_qps_per_replica": "the grid scales by time to the first token: replicas: target_ttft_ms",
    "dynamic_ondemand_fallback": "pools carry their own hazard of preemption, and it is priced",
    "base_ondemand_fallback_replicas": "pools carry their own hazard of preemption, and it is priced",
    "spot_placer": "the grid places replicas by cost",
    "upscale_delay_seconds": "the grid scales by time to the first token",
    "downscale_delay_seconds": "the grid scales by time to the first token",
    "qps_upper_threshold": "the grid scales by time to the first token",
    "qps_lower_threshold": "the grid scales by time to the first token",
    "auto_restart": "a replica that ends is placed again",
}
_SERVICE_SET_ASIDE = {
    "readiness_probe": "a replica counts as ready when its port answers",
    "load_balancer": "the grid's socket spreads requests itself",
    "load_balancing_policy": "the grid's socket spreads requests itself",
    "tls": "the grid's socket ends TLS",
    "controller_resources": "the grid itself is the controller",
    "controller": "the grid itself is the controller",
}


def read_replicas(keys: Keys) -> tuple[Replicas | None, int | None]:
    """(replicas or None, the port that `service:` names or None).

    Raises: Refused `conflicting_keys` where two of the keys stand, `bad_value` for min above max.
    """
    given = first_of(keys, ("replicas", "service", "pool"))
    spot = keys.take(given) if given else None
    for name in ("replicas", "service", "pool"):
        keys.take(name)
    if spot is None:
        return None, None
    if given == "replicas":
        if not isinstance(spot, Mapping):
            count = as_whole(spot, keys.at("replicas"))
            return Replicas(min=count, max=max(1, count)), None
        return _ours(Keys(spot, keys.at("replicas"), keys.notes)), None
    inner = Keys(spot, keys.at(given or ""), keys.notes)
    if given == "pool":
        for name in ("workers", "min_workers", "max_workers", "queue_length_threshold"):
            inner.take(name)
        for name in ("upscale_delay_seconds", "downscale_delay_seconds"):
            inner.take(name)
        inner.close()
        keys.notes.append("pool is set aside: the grid keeps no idle workers; every job is placed by itself")
        return None, None
    return _sky_service(inner)


def _ours(keys: Keys) -> Replicas:
    least = keys.whole("min", 1)
    most = keys.whole("max", max(1, least or 0))
    ttft_ms = keys.whole("target_ttft_ms", 0)
    keys.close()
    return _bounds(keys, least, most, ttft_ms)


def _sky_service(keys: Keys) -> tuple[Replicas | None, int | None]:
    port_key = first_of(keys, ("ports", "port")) or "ports"  # `port` is SkyServe's older spelling
    port = keys.whole(port_key, None, least=1)
    keys.take("ports"), keys.take("port")
    if port is not None and port > 65535:
        refuse(
            keys.spot.items[port_key], keys.at(port_key), "bad_value", f"{port} is not a port", "write 8080"
        )
    given = first_of(keys, ("replicas", "replica_policy", "workers", "pool"))
    count = keys.whole("replicas", None)
    workers = keys.whole("workers", None)
    policy = keys.inner("replica_policy")
    keys.set_aside("pool", "the grid keeps no idle workers; every job is placed by itself")
    for name, why in _SERVICE_SET_ASIDE.items():
        keys.set_aside(name, why)
    keys.close()
    if given in ("workers", "pool"):
        if workers is not None:
            keys.notes.append(f"{keys.at('workers')}: {workers} is set aside: the grid keeps no idle workers")
        return None, port
    if policy is None:
        replicas = 1 if count is None else count
        return Replicas(min=replicas, max=max(1, replicas)), port
    least = policy.whole("min_replicas", 1)
    most = policy.whole("max_replicas", max(1, least or 0))
    for name, why in _POLICY_SET_ASIDE.items():
        policy.set_aside(name, why)
    policy.close()
    return _bounds(policy, least, most, 0), port


def _bounds(keys: Keys, least: int | None, most: int | None, ttft_ms: int | None) -> Replicas:
    if (least or 0) > (most or 0) or not most:
        what = f"cannot have at least {least} and at most {most} replicas"
        refuse(keys.spot, keys.path, "bad_value", what, "write min: 0 and max: 8")
    return Replicas(min=least or 0, max=most, target_ttft_ms=ttft_ms or 0)
