from toy import ToyDevice, toy_job

from sdserver.calls import Decode, EncodeText, Predict
from sdserver.engine.batcher import Batcher
from sdserver.engine.engine import Engine
from sdserver.engine.fixed import FixedBatches
from sdserver.jobs.events import Finished
from sdserver.programs.table import program_for


class RowCountDevice(ToyDevice):
    """Its results depend on the number of rows, as a real device's last bits do."""

    def run(self, calls):
        results = super().run(calls)
        if isinstance(calls[0], Predict):
            return [result + 0.01 * len(calls) for result in results]
        return results


def pictures(device, budget, count):
    events = []
    engine = Engine(device, program_for, Batcher(budget), events.append, 8)
    for k in range(count):
        engine.submit(toy_job(f"j{k}", seed=k, steps=3 + k, text=f"toy {k}"))
    while engine.busy:
        engine.step()
    return {event.job: event.picture for event in events if isinstance(event, Finished)}


def budget(key):
    return {"predict": 6, "decode": 2}.get(key[0], 9)


def test_a_picture_is_the_same_alone_and_in_company():
    alone = pictures(FixedBatches(RowCountDevice(), budget), budget, 1)
    company = pictures(FixedBatches(RowCountDevice(), budget), budget, 5)
    assert alone["j0"] == company["j0"]
    loose = pictures(RowCountDevice(), budget, 5)
    assert loose["j0"] != pictures(RowCountDevice(), budget, 1)["j0"], "else this proves nothing"


def test_every_batch_is_full_and_texts_go_alone():
    device = ToyDevice()
    assert len(pictures(FixedBatches(device, budget), budget, 3)) == 3
    rows = {name: {count for kind, count in device.batches if kind == name} for name, _ in device.batches}
    assert rows[Predict.__name__] == {6}
    assert rows[Decode.__name__] == {2}
    assert rows[EncodeText.__name__] == {1}
