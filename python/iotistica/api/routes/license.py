"""`/api/v1/license`: what the deployment may be used for (reference section 6.4)."""

from __future__ import annotations

from datetime import UTC, datetime

from iotistica.allowance import UNLIMITED
from iotistica.api.auth_license import License
from iotistica.api.models import license as models
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.store.allowances import active_agents
from iotistica.store.pool import Pool


class LicenseRoutes:
    """Handlers of the licence."""

    def __init__(self, license: License | None, pool: Pool) -> None:  # noqa: A002
        self._license = license
        self._pool = pool

    @route("GET", "/api/v1/license", needs="device:read")
    async def get(self, caller: Principal) -> models.LicenseView:
        """The licence of the deployment, and what the caller's tenant uses of it."""
        found = self._license
        allowance = UNLIMITED if found is None else found.allowance
        used, most = await active_agents(self._pool, caller.tenant), allowance.most_agents
        percent = None if most is None else 100 if most == 0 else round(100 * used / most)
        until = allowance.until
        return models.LicenseView(
            mode="community" if found is None else "licensed",
            plan="community" if found is None else found.plan,
            customer=None
            if found is None
            else models.Customer(found.customer, found.customer_name),
            features={} if found is None else dict(found.features),
            limits={} if found is None else dict(found.limits),
            subscription=None if found is None else dict(found.subscription),
            max_devices=most,
            used=used,
            expires_at=until,
            is_expired=until is not None and datetime.now(UTC) > until,
            usage=models.Use(models.AgentUse(used, most, percent)),
        )
