"""Tables of prices and loans, and the invariants of loans that PostgreSQL itself holds.

- A device that is lent (taken or recalled) has no live node, and none starts on it; one that an ended node still holds is
  not lent. The two checks take one lock.
- A loan goes offered -> taken -> recalled -> returned or leaves steps out; it never goes back and keeps its device.
- A price that was set never changes or vanishes.

Every refusal has SQLSTATE 23000, which Django raises as IntegrityError.
"""

import django.db.models.deletion
import uuid
from django.conf import settings
from django.db import migrations, models

FORWARD = """
CREATE FUNCTION capacity_lock_device(host uuid, device smallint) RETURNS void LANGUAGE sql AS $$
    SELECT pg_advisory_xact_lock(hashtextextended('capacity:' || host::text || ':' || device::text, 0));
$$;

CREATE FUNCTION capacity_node_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state = 'ended' THEN
        RETURN NEW;
    END IF;
    PERFORM capacity_lock_device(NEW.host_id, NEW.device);
    IF EXISTS (SELECT 1 FROM capacity_deviceloan WHERE host_id = NEW.host_id AND device = NEW.device
               AND state IN ('taken', 'recalled')) THEN
        RAISE EXCEPTION 'capacity: the device is lent to judging' USING ERRCODE = '23000';
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION capacity_loan_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF (NEW.id, NEW.host_id, NEW.device) IS DISTINCT FROM (OLD.id, OLD.host_id, OLD.device) THEN
            RAISE EXCEPTION 'capacity: a loan keeps its device' USING ERRCODE = '23000';
        END IF;
        IF OLD.state = 'returned'
                OR (OLD.state <> 'offered' AND NEW.borrower IS DISTINCT FROM OLD.borrower)
                OR array_position(ARRAY['offered', 'taken', 'recalled', 'returned'], NEW.state::text)
                 < array_position(ARRAY['offered', 'taken', 'recalled', 'returned'], OLD.state::text) THEN
            RAISE EXCEPTION 'capacity: a loan does not go back' USING ERRCODE = '23000';
        END IF;
        IF OLD.state <> 'offered' OR NEW.state NOT IN ('taken', 'recalled') THEN
            RETURN NEW;
        END IF;
    ELSIF NEW.state NOT IN ('taken', 'recalled') THEN
        RETURN NEW;
    END IF;
    PERFORM capacity_lock_device(NEW.host_id, NEW.device);
    IF EXISTS (SELECT 1 FROM capacity_node WHERE host_id = NEW.host_id AND device = NEW.device
               AND (state <> 'ended' OR holds_device)) THEN
        RAISE EXCEPTION 'capacity: a node is on the device' USING ERRCODE = '23000';
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION capacity_price_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'capacity: % of a price is refused', TG_OP USING ERRCODE = '23000';
END $$;

CREATE TRIGGER capacity_node_guard BEFORE INSERT OR UPDATE OF state, host_id, device ON capacity_node
    FOR EACH ROW EXECUTE FUNCTION capacity_node_guard();
CREATE TRIGGER capacity_loan_guard BEFORE INSERT OR UPDATE ON capacity_deviceloan
    FOR EACH ROW EXECUTE FUNCTION capacity_loan_guard();
CREATE TRIGGER capacity_price_guard BEFORE UPDATE OR DELETE ON capacity_classprice
    FOR EACH ROW EXECUTE FUNCTION capacity_price_guard();
"""
REVERSE = """
DROP TRIGGER capacity_price_guard ON capacity_classprice;
DROP TRIGGER capacity_loan_guard ON capacity_deviceloan;
DROP TRIGGER capacity_node_guard ON capacity_node;
DROP FUNCTION capacity_price_guard();
DROP FUNCTION capacity_loan_guard();
DROP FUNCTION capacity_node_guard();
DROP FUNCTION capacity_lock_device(uuid, smallint);
"""


class Migration(migrations.Migration):

    dependencies = [
        ('capacity', '0004_scaling'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='ClassPrice',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('price_microcredits_per_device_hour', models.BigIntegerField()),
                ('set_at', models.DateTimeField(auto_now_add=True)),
                ('device_class', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='prices', to='capacity.deviceclass')),
                ('set_by', models.ForeignKey(help_text="Empty: the machine's own supervisor.", null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'ordering': ['-pk'],
                'constraints': [models.CheckConstraint(condition=models.Q(('price_microcredits_per_device_hour__gte', 0)), name='set_price_not_negative')],
            },
        ),
        migrations.CreateModel(
            name='DeviceLoan',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, primary_key=True, serialize=False)),
                ('device', models.PositiveSmallIntegerField(help_text="Number of the host's device, from 0.")),
                ('state', models.CharField(choices=[('offered', 'Offered'), ('taken', 'Taken'), ('recalled', 'Recalled'), ('returned', 'Returned')], default='offered', max_length=10)),
                ('borrower', models.UUIDField(help_text='The runner that took it.', null=True)),
                ('reason', models.CharField(help_text='Why it was offered.', max_length=300)),
                ('recall_reason', models.CharField(blank=True, max_length=300)),
                ('end_reason', models.CharField(blank=True, max_length=300)),
                ('offered_at', models.DateTimeField(auto_now_add=True)),
                ('taken_at', models.DateTimeField(null=True)),
                ('expires_at', models.DateTimeField(help_text="Renewed by the runner's heartbeats.", null=True)),
                ('recalled_at', models.DateTimeField(null=True)),
                ('returned_at', models.DateTimeField(null=True)),
                ('host', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='loans', to='capacity.host')),
            ],
            options={
                'ordering': ['offered_at'],
                'constraints': [models.UniqueConstraint(condition=models.Q(('state__in', ('offered', 'taken', 'recalled'))), fields=('host', 'device'), name='loan_one_of_a_device'), models.CheckConstraint(condition=models.Q(('state__in', ['offered', 'taken', 'recalled', 'returned'])), name='loan_state_known'), models.CheckConstraint(condition=models.Q(models.Q(('state__in', ('taken', 'recalled')), _negated=True), models.Q(('borrower__isnull', False), ('expires_at__isnull', False), ('taken_at__isnull', False)), _connector='OR'), name='loan_lent_has_borrower'), models.CheckConstraint(condition=models.Q(models.Q(('state', 'recalled'), _negated=True), ('recalled_at__isnull', False), _connector='OR'), name='loan_recalled_has_time'), models.CheckConstraint(condition=models.Q(models.Q(('returned_at__isnull', False), ('state', 'returned')), models.Q(models.Q(('state', 'returned'), _negated=True), ('returned_at__isnull', True)), _connector='OR'), name='loan_returned_has_time')],
            },
        ),
        migrations.RunSQL(FORWARD, REVERSE),
    ]
