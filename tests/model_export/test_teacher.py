import numpy as np
import pytest

pytestmark = pytest.mark.needs("torch")


def teacher_for(folder, labels):
    from model_export.teacher import Teacher

    return Teacher(str(folder), labels)


def test_a_teacher_answers_about_views_of_any_size_as_its_bundle_does(bundle_folder):
    import torch

    from shutterless.bundles import read_bundle
    from shutterless.classifier import Classifier

    classifier = Classifier(read_bundle(bundle_folder))
    side = classifier.manifest.input.side
    pixels = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    views = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    teacher = teacher_for(bundle_folder, classifier.manifest.labels)
    np.testing.assert_allclose(teacher.logits(views).numpy(), classifier.classify(pixels), atol=1e-5)
    assert teacher.logits(torch.rand(2, 3, 48, 48)).shape == (2, len(classifier.manifest.labels))


def test_the_loss_is_least_for_the_student_that_answers_like_the_teacher(bundle_folder):
    import torch

    from shutterless.bundles import read_bundle

    teacher = teacher_for(bundle_folder, read_bundle(bundle_folder).manifest.labels)
    views = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    same = teacher.logits(views)
    none = torch.zeros(())
    assert teacher.blend(none, same, views).item() == pytest.approx(0, abs=1e-6)
    assert teacher.blend(none, same.roll(1, 1) + torch.arange(same.shape[1]), views).item() > 0.01
    assert teacher.blend(torch.tensor(2.0), same, views).item() == pytest.approx(0.2, abs=1e-6)


def test_a_teacher_of_other_labels_is_refused(bundle_folder):
    from model_export.errors import ExportError

    with pytest.raises(ExportError, match="labels that are not those"):
        teacher_for(bundle_folder, ("a", "b"))
