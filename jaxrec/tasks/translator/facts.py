"""What the system says of itself: what it reads, how it is scored, and what its metrics and pictures mean."""

from collections.abc import Mapping
from dataclasses import replace

from jaxrec.augment.made_pairs import MADE
from jaxrec.data.features import class_names
from jaxrec.metrics.meanings import Meaning
from jaxrec.settings.translator import Translator as Config
from jaxrec.tasks.system import LOSS, Facts, Score, refuse_unused
from jaxrec.tasks.translator.pairs import second, translated

HEADLINE = ("psnr_pooled", "l1", "class_consistency", "loss")
EVOLVING = ("translations",)
MEASURES = ("judged_answers", "read_answers")
BY_READER = "by the reader, a segmenter of the real photos"
JUDGED = "by the judge, a classifier of the true images"
ON_FEATURES = "on the judge's features"
L1 = "Absolute error of a pixel, of values in [0, 1]"
POOLED = "Peak signal to noise ratio in decibels, of the squared error of all pixels of the split"
ALONE = "Mean of the images' own peak signal to noise ratios, in decibels, each at most 100"
SSIM = "Structural similarity, at most 1"
OF_COPY, OF_MEAN = "of the input in place of the answer.", "of the mean of the training targets in place of the answer."
MEANINGS = {
    "loss": Meaning("In evaluation: the absolute error of a pixel or, unpaired, the generators' loss."),
    "l1": Meaning(f"{L1}; it rewards blur.", "less"),
    "psnr_pooled": Meaning(f"{POOLED}; it rewards blur.", "more"),
    "psnr_per_image": Meaning(f"{ALONE}; it rewards blur.", "more"),
    "ssim": Meaning(f"{SSIM}.", "more"),
    "copy_l1": Meaning(f"{L1}, {OF_COPY}", "less"),
    "copy_psnr_pooled": Meaning(f"{POOLED}, {OF_COPY}", "more"),
    "copy_psnr_per_image": Meaning(f"{ALONE}, {OF_COPY}", "more"),
    "copy_ssim": Meaning(f"{SSIM}, {OF_COPY}", "more"),
    "mean_l1": Meaning(f"{L1}, {OF_MEAN}", "less"),
    "mean_psnr_pooled": Meaning(f"{POOLED}, {OF_MEAN}", "more"),
    "mean_psnr_per_image": Meaning(f"{ALONE}, {OF_MEAN}", "more"),
    "mean_ssim": Meaning(f"{SSIM}, {OF_MEAN}", "more"),
    "pixel_error": Meaning(f"{L1}, in training.", "less"),
    "generator_loss": Meaning("The generator's adversarial loss."),
    "discriminator_loss": Meaning("The discriminator's loss, without penalties."),
    "real": Meaning("Mean logit of the discriminator at real images."),
    "fake": Meaning("Mean logit of the discriminator at translated images."),
    "penalty": Meaning("The discriminator's penalties."),
    "matching_error": Meaning("Absolute error of the discriminator's activations.", "less"),
    "perceptual_error": Meaning("Squared error of the judge's features, as a share of their squares.", "less"),
    "cycle_error": Meaning("Absolute error of images that were translated there and back.", "less"),
    "identity_error": Meaning("Absolute error of images that were of the target's kind already.", "less"),
    "class_consistency": Meaning(f"Share of the answers that are of their image's class, {JUDGED}.", "more"),
    "real_class_consistency": Meaning(f"The same of the true images, {JUDGED}.", "more"),
    "modes": Meaning(f"Classes among the answers, {JUDGED}.", "more"),
    "real_modes": Meaning(f"Classes among the true images, {JUDGED}.", "more"),
    "class_entropy": Meaning(f"Entropy in nats of the classes among the answers, {JUDGED}."),
    "real_class_entropy": Meaning(f"Entropy in nats of the classes among the true images, {JUDGED}."),
    "kl_to_uniform": Meaning("How far that of the answers is below that of equally frequent classes, in nats."),
    "real_kl_to_uniform": Meaning("The same of the true images."),
    "random_features_distance": Meaning(
        "Frechet distance of answers from true images, on features of a fixed network that has learned nothing.", "less"
    ),
    "frechet_distance": Meaning(f"Distance of answers from true training images, {ON_FEATURES}.", "less"),
    "copy_frechet_distance": Meaning("The same of the inputs.", "less"),
    "frechet_distance_train_test": Meaning("The same of true test images: what a perfect translation would have."),
    "kernel_distance": Meaning(f"Another distance {ON_FEATURES}; below 0 by chance.", "less"),
    "copy_kernel_distance": Meaning("The same of the inputs.", "less"),
    "kernel_distance_train_test": Meaning("The same of true test images: what a perfect translation would have."),
    "judge": Meaning("Name and checksum of the judge, whose features distances are taken on."),
    "judged": Meaning("Answers that were judged."),
    "reader": Meaning("Name and checksum of the reader of what was made of label maps."),
    "reader_miou": Meaning(
        f"Mean over the classes of hits over what is of a class or read as it, {BY_READER}.", "more"
    ),
    "reader_pixel_accuracy": Meaning(f"Share of pixels whose label is read back, {BY_READER}.", "more"),
    "real_reader_miou": Meaning("The same of the real photos."),
    "real_reader_pixel_accuracy": Meaning("The same of the real photos."),
    "mean_reader_miou": Meaning("The same of the mean of the training photos."),
    "mean_reader_pixel_accuracy": Meaning("The same of the mean of the training photos."),
}
CAPTIONS = {
    "translations": "Inputs, their true targets, and what they were translated into, row by row.",
    "translations.gif": "The same throughout the run.",
    "cycles": "Images, what they were translated into, and that translated back, row by row.",
    "worst_translations": "Input, true target and translation of the images of highest loss in the whole split.",
    "batch": "Inputs and targets of a training batch after augmentation, side by side.",
}


def READS(config: Config) -> Mapping[str, str]:
    """One image if pairs are made of it, otherwise two; classes if there are any, for the judge."""
    reads = {"image": "image"}
    if config.pairs not in MADE:
        # Without --pairs, the data tells what is translated, and need not have a second image.
        reads[second(config)] = "image?" if config.pairs is None else "image"
    reads["label"] = "class?"
    return reads


def SCORE(config: Config) -> Score:
    """The error of pixels; without targets, the distance from true images: the players' losses tell nothing."""
    return Score("random_features_distance") if config.unpaired else LOSS


def complete(config: Config, facts: Facts) -> Config:
    """The settings with what is translated, and the number of classes.

    Raises UserError if weights are given of terms that the generator's loss does not have.
    """
    if config.unpaired:
        refuse_unused(config, "with --unpaired, because no target is known", "pixel")
    else:
        refuse_unused(config, "without --unpaired", "cycle", "identity", "pool")
    shapes = {name: feature.shape for name, feature in facts.features.items()}
    return replace(config, pairs=translated(config, shapes), classes=len(class_names(facts.features)))


def taught(config: Config) -> bool | str:
    """Perceptual errors are taken on the judge's features, or on those of a trained run."""
    return config.perceptual > 0 and (config.perceptual_run or True)
